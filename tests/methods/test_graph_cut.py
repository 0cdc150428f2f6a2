"""Graph cut against its definition: explicit gradients, gains summed anew for every choice, bins."""

import pytest
import torch
import torch.nn.functional as F
from ddbench.methods.engines.selection.graph_cut import Cosine, LastLayer, graph_cut, graph_cut_bins, loss_gradient
from small_tasks import normal

from ddbench.errors import UsageError

N, K, D = 23, 4, 6


def labels(count=N):
    return torch.arange(count) % K


def loss_of(logits, truth, softmax):
    return F.cross_entropy(logits.softmax(1) if softmax == "double" else logits, truth, reduction="sum")


def explicit(delta, h):
    """s from the gradients themselves, [delta ; delta outer h], pair by pair."""
    g = torch.cat([delta, (delta[:, :, None] * h[:, None, :]).flatten(1)], 1)
    lengths = g.norm(dim=1)
    both = lengths[:, None] * lengths
    cosines = torch.where(both > 0, g @ g.T / both.clamp_min(1e-300), 0.0)
    return 0.5 + 0.5 * cosines


def naive(s, count, weight=1.0, pool=None):
    """The definition: both sums anew for every candidate and choice, over plain numbers; the first of equals."""
    rows, pool, chosen = s.tolist(), list(range(len(s))) if pool is None else pool, []
    for _ in range(count):
        best, found = -float("inf"), -1
        for x in (x for x in pool if x not in chosen):
            gain = weight * sum(rows[j][x] for j in pool) - 2 * sum(rows[j][x] for j in chosen)
            if gain > best + 1e-12:
                best, found = gain, x
        chosen.append(found)
    return chosen


@pytest.fixture
def last_layer():
    delta = loss_gradient(normal(N, K) * 3, labels(), "double")
    delta[5] = 0
    return delta, normal(N, D, seed=1)


@pytest.mark.parametrize("softmax", ["double", "single"])
def test_delta_is_the_gradient_of_the_loss_by_the_logits(softmax):
    logits = (normal(N, K) * 3).requires_grad_()
    (wanted,) = torch.autograd.grad(loss_of(logits, labels(), softmax), logits)
    assert torch.allclose(loss_gradient(logits.detach(), labels(), softmax), wanted, rtol=1e-10, atol=1e-14)


def test_delta_with_its_outer_product_is_the_gradient_by_the_last_layer():
    weight, bias, h = normal(K, D, seed=2).requires_grad_(), normal(K, seed=3).requires_grad_(), normal(N, D, seed=1)
    delta = loss_gradient((h @ weight.T + bias).detach(), labels(), "double")
    for i in range(3):
        loss = loss_of(h[i : i + 1] @ weight.T + bias, labels()[i : i + 1], "double")
        by_weight, by_bias = torch.autograd.grad(loss, (weight, bias))
        assert torch.allclose(by_bias, delta[i]) and torch.allclose(by_weight, torch.outer(delta[i], h[i]))


@pytest.mark.parametrize("softmax", ["double", "single"])
@pytest.mark.parametrize("truth", [0, 1])
def test_confident_samples_keep_the_direction_of_their_gradient(softmax, truth):
    """At p = 1 - 2e-18 the plain formulas only give rounding; here against numbers of 60 digits."""
    from decimal import Decimal, localcontext

    z = [40.0, -1.0, -2.0, -1.5]
    with localcontext() as context:
        context.prec = 60

        def softmax_of(values):
            powers = [value.exp() for value in values]
            return [power / sum(powers) for power in powers]

        p = softmax_of([Decimal(value) for value in z])
        inner = [q - (c == truth) for c, q in enumerate(softmax_of(p))]
        mean = sum(a * b for a, b in zip(p, inner, strict=True))
        if softmax == "double":
            wanted = [float(a * (b - mean)) for a, b in zip(p, inner, strict=True)]
        else:
            wanted = [float(a - (c == truth)) for c, a in enumerate(p)]
    found = loss_gradient(torch.tensor([z], dtype=torch.float64), torch.tensor([truth]), softmax)[0]
    assert torch.allclose(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-9, atol=0)


def test_similarities_are_those_of_the_gradients_themselves(last_layer):
    s, similarity = explicit(*last_layer), LastLayer.of(*last_layer)
    assert len(similarity) == N
    for i in range(N):
        assert torch.allclose(similarity.row(i), s[i], atol=1e-12)
    assert torch.allclose(similarity.total(), s.sum(0), atol=1e-11)
    some = torch.tensor([2, 5, 7, 20])
    assert torch.allclose(similarity.take(some).total(), s[some][:, some].sum(0), atol=1e-12)


def test_cosines_of_features():
    features = normal(N, D)
    s, similarity = 0.5 + 0.5 * F.cosine_similarity(features[:, None], features[None], dim=2), Cosine.of(features)
    assert torch.allclose(torch.stack([similarity.row(i) for i in range(N)]), s)
    assert torch.allclose(similarity.total(), s.sum(0))
    assert torch.allclose(similarity.take(torch.tensor([3, 1])).row(0), s[3, [3, 1]])


def test_the_cosine_with_zeros_is_zero(last_layer):
    for similarity in (LastLayer.of(*last_layer), Cosine.of(normal(N, D) * (torch.arange(N) != 5)[:, None])):
        assert torch.equal(similarity.row(5), torch.full((N,), 0.5, dtype=torch.float64))
        assert bool(torch.isfinite(similarity.total()).all())
    zeros = LastLayer.of(torch.zeros(6, K), torch.zeros(6, D))
    assert graph_cut(zeros, 6).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("weight", [1.0, 0.2, 3.0])
@pytest.mark.parametrize("count", [0, 1, 7, N])
def test_choices_are_the_greedy_rule_with_all_sums_taken_anew(last_layer, weight, count):
    assert graph_cut(LastLayer.of(*last_layer), count, weight).tolist() == naive(explicit(*last_layer), count, weight)


def test_of_equal_samples_the_first_is_chosen():
    twice = Cosine.of(torch.eye(3, dtype=torch.float64).repeat(2, 1))
    assert graph_cut(twice, 6).tolist() == [0, 1, 2, 3, 4, 5]


def test_more_than_there_are_is_one_line():
    with pytest.raises(UsageError, match="8 of 7"):
        graph_cut(Cosine.of(normal(7, D)), 8)
    with pytest.raises(UsageError, match="7 samples do not fill 8 bins"):
        graph_cut_bins(Cosine.of(normal(7, D)), 8)


@pytest.mark.parametrize("number", [1, 4, 5, N])
def test_each_bin_is_a_graph_cut_of_what_is_left_and_sizes_differ_by_one_at_most(last_layer, number):
    bins, s, left = graph_cut_bins(LastLayer.of(*last_layer), number), explicit(*last_layer), list(range(N))
    sizes = [len(part) for part in bins]
    assert len(bins) == number and sum(sizes) == N and max(sizes) - min(sizes) <= 1
    for part in bins[:-1]:
        assert part.tolist() == naive(s, len(part), pool=left)
        left = [x for x in left if x not in part.tolist()]
    assert bins[-1].tolist() == left


def test_no_n_by_n_matrix_is_made(last_layer):
    """Every tensor that is made on the way has at most n times a few values."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            nonlocal largest
            made = function(*arguments, **(keywords or {}))
            if isinstance(made, torch.Tensor):
                largest = max(largest, made.numel())
            return made

    count = 500
    delta, h = normal(count, 3), normal(count, 4)
    with Watch():
        graph_cut_bins(LastLayer.of(delta, h), 3)
    assert 0 < largest <= 5 * count
