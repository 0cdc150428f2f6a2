import pytest
import torch
from ddbench.methods.engines.selection.coresets import herding, k_center
from ddbench.methods.engines.shares import proportional_shares
from small_tasks import a_task, distilled

from ddbench.budget import Budget
from ddbench.data.registry import load_dataset
from ddbench.errors import UsageError
from ddbench.synset.synset import SynSet


def _features(count: int, dim: int = 5) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(count))


def test_k_center_is_the_greedy_rule_point_by_point():
    features = _features(40)
    mean = features.double().mean(0)
    expected = [min(range(40), key=lambda i: float((features[i] - mean).norm()))]
    while len(expected) < 7:
        radius = [min(float((features[i] - features[j]).double().norm()) for j in expected) for i in range(40)]
        expected.append(max(range(40), key=lambda i: radius[i]))
    assert k_center(features, 7).tolist() == expected


def test_k_center_never_takes_a_point_twice_even_among_copies():
    assert sorted(k_center(torch.ones(5, 3), 5).tolist()) == [0, 1, 2, 3, 4]


def test_herding_brings_the_running_mean_nearest_to_the_class_mean():
    features = _features(30)
    mean, expected = features.double().mean(0), []
    for _ in range(8):
        left = [i for i in range(30) if i not in expected]
        expected.append(min(left, key=lambda i: float((mean - features[[*expected, i]].double().mean(0)).norm())))
    assert herding(features, 8).tolist() == expected


def test_herding_equals_welling_where_all_features_have_one_length():
    features = torch.nn.functional.normalize(_features(50), dim=1)
    mean = features.mean(0)
    weight, expected = mean.clone(), []
    for _ in range(6):  # w_t = w_{t-1} + mu - f(x_t), without taking a point again
        score = features @ weight
        score[expected] = -torch.inf
        expected.append(int(score.argmax()))
        weight = weight + mean - features[expected[-1]]
    assert herding(features, 6).tolist() == expected


def test_all_of_a_class_can_be_chosen_and_no_more():
    features = _features(6)
    for choose in (k_center, herding):
        assert sorted(choose(features, 6).tolist()) == list(range(6))
        with pytest.raises(UsageError, match="7 of 6"):
            choose(features, 7)


def distil(name: str, budget: Budget, seed: int = 0, **fields: object) -> SynSet:
    return distilled(name, a_task(budget, data=load_dataset("digits"), seed=seed), **fields)


def test_proportional_shares_sum_to_the_fraction_and_stay_within_one_of_their_quota():
    sizes = [100, 37, 5, 1, 260]
    for fraction in (0.01, 0.1, 0.333, 0.9, 1.0):
        shares = proportional_shares(fraction, sizes)
        assert sum(shares) == round(fraction * sum(sizes))
        assert all(abs(share - fraction * size) < 1 for share, size in zip(shares, sizes, strict=True))


def test_random_is_nested_in_ipc_differs_by_seed_and_has_the_right_classes():
    one, five = distil("random", Budget(1)), distil("random", Budget(5))
    assert one.indices.tolist() == five.indices.view(10, 5)[:, 0].tolist()
    assert five.indices.unique().numel() == 50 and five.per_class() == [5] * 10
    assert torch.equal(load_dataset("digits").train.labels[five.indices], five.classes)
    assert not torch.equal(five.indices, distil("random", Budget(5), seed=1).indices)
    assert len(distil("random", Budget(fraction=0.1))) == round(0.1 * len(load_dataset("digits").train))


@pytest.mark.parametrize("name", ["kcenter", "herding"])
@pytest.mark.parametrize("features", ["pixels", "random-network"])
def test_geometric_selection_gives_ipc_images_of_each_class(name, features):
    found = distil(name, Budget(4), features=features)
    assert found.per_class() == [4] * 10 and found.indices.unique().numel() == 40
    if features == "pixels":  # nothing is drawn: the seed changes nothing
        assert torch.equal(found.indices, distil(name, Budget(4), seed=9, features=features).indices)


def test_whole_keeps_every_index():
    assert torch.equal(distil("whole", Budget()).indices, torch.arange(len(load_dataset("digits").train)))
