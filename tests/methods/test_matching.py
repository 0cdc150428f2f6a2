"""The matching engine against a loop over classes in float64 that keeps one graph and whole feature maps."""

import pytest
import torch
from ddbench.methods.engines import condensation
from ddbench.methods.engines.matching import feature_matching
from ddbench.methods.engines.matching.attention import AttentionMaps, channel_power_sum
from ddbench.methods.engines.matching.feature_matching import Pairs, class_groups, matching_gradient
from small_tasks import a_task, distilled
from torch import Tensor, nn
from watching import StopAt, Stopped

from ddbench.data.registry import load_dataset
from ddbench.distillation.task import Task
from ddbench.errors import JobFailed, UsageError
from ddbench.networks import create
from ddbench.randomness import rng
from ddbench.synset.synset import SynSet
from ddbench.training.checkpoints import Checkpoint

CLASSES, IPC, SIDE = 4, 3, 8


class Net(nn.Module):
    """Two blocks as in ConvNet-D: convolution, norm, ReLU in place, average pooling."""

    def __init__(self, norm: str = "in") -> None:
        super().__init__()
        blocks = []
        for inputs, width in ((2, 6), (6, 6)):
            layer = nn.GroupNorm(width, width) if norm == "in" else nn.BatchNorm2d(width)
            blocks += [nn.Conv2d(inputs, width, 3, padding=1), layer, nn.ReLU(inplace=True), nn.AvgPool2d(2)]
        self.body = nn.Sequential(*blocks)

    def embed(self, images: Tensor) -> Tensor:
        return self.body(images).flatten(1)


class Scaled:
    """A siamese augmentation simple enough to check: one factor and one shift per draw."""

    def draw(self, count: int, side: int, generator: torch.Generator) -> tuple[float, int]:
        return float(torch.rand((), generator=generator)) + 0.5, int(torch.randint(0, side, (), generator=generator))

    def apply(self, images: Tensor, drawn: tuple[float, int]) -> Tensor:
        return (images * drawn[0]).roll(drawn[1], -1)


@pytest.fixture
def network() -> Net:
    torch.manual_seed(0)
    return Net().double().requires_grad_(False)


@pytest.fixture
def pairs() -> Pairs:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(40, 2, SIDE, SIDE, generator=generator, dtype=torch.float64)
    labels = torch.arange(40) % CLASSES
    labels[:6] = 0  # classes of different sizes, one smaller than the batch
    pools = [(labels == label).nonzero().flatten() for label in range(CLASSES)]
    return Pairs(lambda places: images[places], pools, 10, Scaled(), lambda *key: rng(7, *key))


@pytest.fixture
def synthetic() -> Tensor:
    return torch.randn(CLASSES * IPC, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def small_chunks(monkeypatch: pytest.MonkeyPatch, images: int) -> None:
    monkeypatch.setattr(condensation, "_CHUNK_PIXELS", {"cpu": images * SIDE**2})


def draws(pairs: Pairs, step: int, label: int, synthetic: Tensor) -> tuple[Tensor, Tensor]:
    """The same draws, from the keys alone: real and synthetic images of a class after their shared augmentation."""
    pool = pairs.pools[label]
    chosen = pool[torch.randperm(len(pool), generator=rng(7, "real", step, label))][: pairs.batch]
    drawn = Scaled().draw(1, SIDE, rng(7, "dsa", step, label))
    mine = synthetic[label * IPC : (label + 1) * IPC]
    return Scaled().apply(pairs.read(chosen), drawn), Scaled().apply(mine, drawn)


def whole_features(network: Net, images: Tensor, power: int) -> list[Tensor]:
    """DataDAM's features by the book: keep every ReLU's output, then reduce."""
    kept, maps = [], []
    for layer in network.body:
        images = torch.relu(images) if isinstance(layer, nn.ReLU) else layer(images)
        if isinstance(layer, nn.ReLU):
            kept.append(images)
    for feature in kept[:-1]:
        attention = feature.abs().pow(power).sum(1).flatten(1)
        maps.append(attention / attention.norm(dim=1, keepdim=True))
    return [*maps, images.flatten(1)]


def test_dm_loss_and_gradient_equal_the_loop_over_classes(network, pairs, synthetic, monkeypatch):
    small_chunks(monkeypatch, 5)
    leaf, total = synthetic.clone().requires_grad_(), torch.zeros((), dtype=torch.float64)
    for label in range(CLASSES):
        real, fake = draws(pairs, 3, label, leaf)
        total = total + (network.embed(real).mean(0) - network.embed(fake).mean(0)).square().sum()
    total.backward()
    loss, gradient = matching_gradient(network, lambda x: (network.embed(x),), (1.0,), synthetic, pairs, 3)
    assert loss == pytest.approx(total.item(), rel=1e-12)
    torch.testing.assert_close(gradient, leaf.grad, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("power", [1, 3, 4])
def test_datadam_loss_and_gradient_equal_the_definition_on_whole_feature_maps(
    network, pairs, synthetic, monkeypatch, power
):
    small_chunks(monkeypatch, 4)
    leaf, total = synthetic.clone().requires_grad_(), torch.zeros((), dtype=torch.float64)
    for label in range(CLASSES):
        real, fake = draws(pairs, 0, label, leaf)
        for index, (r, s) in enumerate(
            zip(whole_features(network, real, power), whole_features(network, fake, power), strict=True)
        ):
            total = total + (100.0, 1.0)[index] * (r.mean(0) - s.mean(0)).square().sum()
    total.backward()
    with AttentionMaps(network, power) as features:
        loss, gradient = matching_gradient(network, features, (100.0, 1.0), synthetic, pairs, 0)
    assert loss == pytest.approx(total.item(), rel=1e-12)
    torch.testing.assert_close(gradient, leaf.grad, rtol=1e-9, atol=1e-12)


def test_chunked_equals_unchunked(network, pairs, synthetic, monkeypatch):
    found = []
    for images in (1, 7, 10_000):
        small_chunks(monkeypatch, images)
        with AttentionMaps(network, 4) as features:
            found.append(matching_gradient(network, features, (2.0, 0.5), synthetic, pairs, 1))
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-12)
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-10, atol=1e-14)


def test_batch_norm_sees_all_real_images_in_one_forward_and_all_synthetic_in_another(pairs, synthetic, monkeypatch):
    small_chunks(monkeypatch, 2)
    torch.manual_seed(0)
    network = Net("bn").double().requires_grad_(False)
    leaf = synthetic.clone().requires_grad_()
    both = [draws(pairs, 2, label, leaf) for label in range(CLASSES)]
    real = network.embed(torch.cat([r for r, _ in both])).split([len(r) for r, _ in both])
    fake = network.embed(torch.cat([s for _, s in both])).split(IPC)
    total = sum((r.mean(0) - s.mean(0)).square().sum() for r, s in zip(real, fake, strict=True))
    total.backward()
    loss, gradient = matching_gradient(network, lambda x: (network.embed(x),), (1.0,), synthetic, pairs, 2)
    assert loss == pytest.approx(total.item(), rel=1e-12)
    torch.testing.assert_close(gradient, leaf.grad, rtol=1e-9, atol=1e-12)
    network.eval()
    assert not feature_matching.mixes_images(network)  # with its statistics frozen, batch norm couples nothing


@pytest.mark.parametrize("power", [1, 2, 3, 4, 5])
def test_channel_power_sum_is_the_sum_of_powers_with_its_derivative(power):
    features = torch.rand(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(channel_power_sum(features, power), features.pow(power).sum(1))
    assert torch.autograd.gradcheck(lambda x: channel_power_sum(x, power), features)


def test_attention_maps_leave_no_hook_behind(network):
    with AttentionMaps(network, 1) as features:
        first, embedding = features(torch.rand(2, 2, SIDE, SIDE, dtype=torch.float64))
    assert first.shape == (2, SIDE * SIDE) and embedding.shape == (2, 24)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(2, dtype=torch.float64))
    assert not any(module._forward_hooks for module in network.modules())


def test_class_groups_cover_all_classes_in_order_within_the_limit():
    groups = list(class_groups([3, 3, 9, 1, 1, 1], 6))
    assert [list(group) for group in groups] == [[0, 1], [2], [3, 4, 5]]
    assert list(class_groups([3, 3], None)) == [range(0, 2)]


def digits_task(network: str = "convnet-d2-w8", **more: object) -> Task:
    return a_task(2, data=load_dataset("digits"), network=network, **more)


def distil(name: str, task: Task | None = None, **fields: object) -> SynSet:
    return distilled(name, task or digits_task(), **{"iterations": 4, "batch_real": 6, **fields})


@pytest.mark.parametrize("name", ["dm", "datadam"])
def test_a_stopped_run_goes_on_to_the_same_bits(name, tmp_path):
    checkpoint, loop = (
        Checkpoint(tmp_path / "state.safetensors", interval=0),
        {"dm": "distributions"}.get(name, "attention"),
    )
    with pytest.raises(Stopped):
        distil(name, digits_task(checkpoint=checkpoint, reporter=StopAt(2, f"matching {loop}")))
    again = digits_task(checkpoint=checkpoint, reporter=(steps := StopAt(watched=f"matching {loop}")))
    assert distil(name, again).hash == distil(name).hash and steps.seen == [3, 4]


@pytest.mark.parametrize("name", ["dm", "datadam"])
def test_images_move_from_where_they_begin_and_keep_to_no_range(name):
    begun, moved = distil(name, init="noise", iterations=1, lr_img=1e-30), distil(name, init="noise", lr_img=30.0)
    assert begun.images.abs().max() > 2  # N(0, 1) values stand as they are
    assert moved.images.abs().max() > begun.images.abs().max()
    assert moved.per_class() == [2] * 10 and moved.student_recipe.batch in (64, 256)


def test_real_init_is_the_random_baseline_at_the_same_seed():
    dataset = load_dataset("digits")
    begun = distil("dm", iterations=1, lr_img=1e-30)
    torch.testing.assert_close(begun.images, distilled("random", digits_task()).pixels(dataset))


def test_a_batch_norm_network_is_its_own_student():
    assert distil("datadam", digits_task("convnet-d2-w8-bn"), iterations=1).student_recipe.network.endswith("-bn")


def test_divergence_is_a_failed_job_with_its_step():
    with pytest.raises(JobFailed, match=r"not finite|at step"):
        distil("dm", lr_img=1e38, iterations=20)


def test_a_network_without_maps_or_embedding_is_refused_in_one_line():
    with pytest.raises(UsageError, match="two ReLU"):
        distil("datadam", digits_task("mlp-w8"))
    with pytest.raises(UsageError, match="no embedding"):
        AttentionMaps(nn.Identity(), 4)


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "alexnet"])
def test_other_networks_give_a_map_for_every_relu_but_the_last(name):
    network = create(name, channels=1, side=8, classes=3)
    with AttentionMaps(network, 2) as features:
        *maps, embedding = features(torch.rand(2, 1, 8, 8))
    assert len(maps) == {"resnet18": 16, "vgg11": 7, "alexnet": 4}[name]
    assert all(found.shape[0] == 2 and found.dim() == 2 for found in (*maps, embedding))
