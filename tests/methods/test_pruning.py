"""Pruning scores against straightforward definitions, on 500 samples in float64; the rules that keep samples by them."""

import math
import random
from types import SimpleNamespace

import pytest
import torch
from ddbench.methods.engines.selection.dynamics import ROWS, Dynamics, DynamicsFields, Recorded, described
from ddbench.methods.engines.selection.pruning import (
    SCORES,
    KeepFields,
    beta_choice,
    dropped,
    kept,
    require_enough,
    stratified_choice,
)

from ddbench.errors import UsageError
from ddbench.randomness import rng

N, T, K, J = 500, 14, 10, 4


@pytest.fixture(scope="module")
def told():
    """Logits [T, n, K] and features [T, n, d] that get better, worse or nowhere, with labels."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, K, (N,), generator=generator)
    skill = torch.linspace(-1, 5, N)[torch.randperm(N, generator=generator)]
    logits = torch.randn(T, N, K, generator=generator)
    times = torch.linspace(0, 1, T)[:, None]
    logits[:, torch.arange(N), labels] += skill * times
    return logits, torch.randn(T, N, 6, generator=generator), labels


@pytest.fixture(scope="module")
def dynamics(told):
    logits, features, labels = told
    rows = {name: torch.zeros(T, N) for name in ROWS}
    for t in range(T):
        for name, values in described(logits[t], labels).items():
            rows[name][t] = values.float()
        rows["feature"][t] = features[t].square().sum(1)
        if t:
            new, old = logits[t].double().log_softmax(1), logits[t - 1].double().log_softmax(1)
            rows["movement"][t] = (new.exp() * (new - old)).abs().sum(1).float()
    rows["prediction"] = rows["prediction"].int()
    return Dynamics((Recorded(**rows, labels=labels, network=None),), labels)


def probabilities(logits):
    e = [math.exp(z) for z in logits]
    return [x / sum(e) for x in e]


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def sample_std(values):
    centre = mean(values)
    return math.sqrt(sum((v - centre) ** 2 for v in values) / (len(values) - 1))


def straightforward(name, z, h, y):
    """The score of one sample from its logits z[t][k], features h[t][d] and class y, in Python's floats."""
    p = [probabilities(row) for row in z]
    error = [math.sqrt(sum((p[t][k] - (k == y)) ** 2 for k in range(K))) for t in range(T)]
    own = [row[y] for row in p]
    if name == "el2n":
        return mean(error)
    if name == "grand":  # the gradient of cross-entropy by weights (p - y) h^T and biases p - y, its 2-norm
        norms = []
        for t in range(T):
            delta = [p[t][k] - (k == y) for k in range(K)]
            norms.append(math.sqrt(sum((d * x) ** 2 for d in delta for x in h[t]) + sum(d * d for d in delta)))
        return mean(norms)
    if name == "forgetting":
        right = [max(range(K), key=lambda k, t=t: z[t][k]) == y for t in range(T)]
        return float(sum(right[t - 1] and not right[t] for t in range(1, T))) if any(right) else float(T)
    if name in ("aum", "aum-prob"):
        v = z if name == "aum" else p
        return -sum(v[t][y] - max(v[t][k] for k in range(K) if k != y) for t in range(T))
    if name == "entropy":
        return -sum(x * math.log(x) for x in p[-1])
    windows = [own[k : k + J] for k in range(T - J + 1)]
    if name == "dyn-unc":
        return mean(sample_std(w) for w in windows)
    if name == "dual":
        return mean(10 * sample_std(w) * (1 - mean(w)) for w in windows)
    moves = [sum(abs(p[t][k] * math.log(p[t][k] / p[t - 1][k])) for k in range(K)) for t in range(1, T)]
    value, last = 0.0, len(moves) - J
    for k in range(last + 1):
        w = moves[k : k + J]
        value += 0.9 * 0.1 ** (last - k) * math.sqrt(sum((m - mean(w)) ** 2 for m in w))
    return value


@pytest.mark.parametrize("name", list(SCORES))
def test_a_score_is_its_definition(name, told, dynamics):
    fields = DynamicsFields(score_epochs=T, window=J)
    found = SCORES[name](dynamics, fields)
    z, h, y = told[0].double().tolist(), told[1].double().tolist(), told[2].tolist()
    wanted = torch.tensor(
        [straightforward(name, [z[t][i] for t in range(T)], [h[t][i] for t in range(T)], y[i]) for i in range(N)],
        dtype=torch.float64,
    )
    assert found.dtype == torch.float64
    assert torch.allclose(found, wanted, rtol=1e-6, atol=1e-6)
    assert torch.equal(found.argsort(stable=True), wanted.argsort(stable=True))


def test_samples_that_were_never_right_rank_hardest_by_forgetting(told, dynamics):
    found = SCORES["forgetting"](dynamics, DynamicsFields(score_epochs=T, window=J))
    never = ~(told[0].argmax(2) == told[2]).any(0)
    assert never.any() and found[never].min() > found[~never].max()


def test_scores_of_several_trainings_are_averaged(dynamics):
    run = dynamics.runs[0]
    both = Dynamics((run, Recorded(**{**vars(run), "error": run.error * 3})), dynamics.labels)
    fields = DynamicsFields(score_epochs=T, window=J)
    assert torch.allclose(SCORES["el2n"](both, fields), 2 * SCORES["el2n"](dynamics, fields))


@pytest.mark.parametrize(("name", "epochs", "fits"), [("dual", 4, True), ("dual", 3, False), ("tdds", 5, True), ("tdds", 4, False), ("el2n", 1, True)])  # fmt: skip
def test_epochs_that_make_no_window_are_one_line(name, epochs, fits):
    fields = DynamicsFields(score_epochs=epochs, window=4)
    if fits:
        SCORES[name].require_epochs(fields)
    else:
        with pytest.raises(UsageError, match="a window of 4 epochs needs at least"):
            SCORES[name].require_epochs(fields)


A_TASK = SimpleNamespace(rng=lambda *key: rng(5, *key))
POOLS = [torch.arange(0, 300), torch.arange(300, 500)]


def test_hard_keeps_the_largest_of_each_pool_and_easy_the_smallest():
    scores = torch.randperm(500, generator=rng(0, "scores")).double()
    for keep, sign in (("hard", -1), ("easy", 1)):
        found = kept(A_TASK, KeepFields(keep=keep), scores, scores, POOLS, [20, 10]).tolist()
        wanted = [
            sorted(pool.tolist(), key=lambda i: sign * float(scores[i]))[:n]
            for pool, n in zip(POOLS, (20, 10), strict=True)
        ]
        assert found == [*wanted[0], *wanted[1]]


def straightforward_strata(scores, count, mis_ratio, strata):
    """How many of which bin CCS takes: {bin: (members, budget)}, its algorithm written out."""
    order = sorted(range(len(scores)), key=lambda i: scores[i])
    rest = order[: len(order) - int(mis_ratio * len(order))]
    low, high = scores[rest[0]], scores[rest[-1]]
    bins = {}
    for i in rest:
        bins.setdefault(min(strata - 1, int((scores[i] - low) / ((high - low) / strata))), set()).add(i)
    plan, left, waiting = {}, count, set(bins)
    while waiting:
        smallest = min(waiting, key=lambda b: (len(bins[b]), b))
        plan[smallest] = (bins[smallest], min(len(bins[smallest]), left // len(waiting)))
        left -= plan[smallest][1]
        waiting.remove(smallest)
    assert left == 0
    return plan


@pytest.mark.parametrize(("count", "mis_ratio", "strata"), [(50, 0.3, 50), (300, 0.3, 50), (350, 0.3, 10), (10, 0.0, 3), (500, 0.0, 50)])  # fmt: skip
def test_ccs_takes_from_every_stratum_its_share(count, mis_ratio, strata):
    scores = torch.randn(500, generator=rng(1, "scores"), dtype=torch.float64) ** 3
    found = stratified_choice(scores, count, mis_ratio, strata, rng(2, "draw")).tolist()
    assert len(set(found)) == len(found) == count
    for members, budget in straightforward_strata(scores.tolist(), count, mis_ratio, strata).values():
        assert len(members & set(found)) == budget


def test_ccs_with_equal_scores_draws_at_random():
    found = stratified_choice(torch.zeros(40, dtype=torch.float64), 10, 0.25, 50, rng(0, "draw"))
    assert len(set(found.tolist())) == 10


def test_beta_sampling_draws_by_its_density_times_the_score():
    """How often each of six samples is drawn first, against the weights of SciPy's density."""
    from scipy.stats import beta

    scores = torch.tensor([0.5, 1.0, 2.0, 1.5, 0.7, 1.1], dtype=torch.float64)
    truth = torch.tensor([0.9, 0.8, 0.35, 0.5, 0.7, 0.6], dtype=torch.float64)
    m, r = float(truth.mean()), 1 - 1 / 6  # fewer than ten samples: all are the top
    b = 15 * (1 - m) * (1 - r**4)
    weights = beta.pdf(truth.numpy(), 16 - b, b) * scores.numpy()
    draws = [int(beta_choice(scores, truth, 1, 4.0, rng(seed, "draw"))) for seed in range(4000)]
    shares = torch.bincount(torch.tensor(draws), minlength=6) / 4000
    assert torch.allclose(shares.double(), torch.tensor(weights / weights.sum()), atol=0.03)


def test_beta_sampling_draws_without_replacement_and_easier_samples_the_fewer_are_kept():
    truth = torch.linspace(0.05, 0.95, 400, dtype=torch.float64)
    scores = 10 * truth * (1 - truth)
    few, many = (beta_choice(scores, truth, n, 4.0, rng(0, "draw")) for n in (20, 200))
    assert len(set(few.tolist())) == 20 and len(set(many.tolist())) == 200
    assert truth[few].mean() > truth[many].mean()


def test_what_is_drawn_follows_from_the_seed():
    scores, truth = (
        torch.rand(500, generator=rng(0, "s"), dtype=torch.float64),
        torch.rand(500, generator=rng(0, "t"), dtype=torch.float64),
    )
    for keep in ("ccs", "beta"):
        one, two, other = (
            kept(SimpleNamespace(rng=lambda *key, seed=seed: rng(seed, *key)), KeepFields(keep=keep), scores, truth, POOLS, [20, 20])
            for seed in (1, 1, 2)
        )  # fmt: skip
        assert torch.equal(one, two) and not torch.equal(one, other)


def test_more_samples_than_there_are_is_one_line():
    require_enough(KeepFields(), ["class 'a'", "class 'b'"], POOLS, [300, 200])
    with pytest.raises(UsageError, match="201 samples of class 'b' were asked for, but there are 200"):
        require_enough(KeepFields(), ["class 'a'", "class 'b'"], POOLS, [300, 201])
    with pytest.raises(UsageError, match=r"141 samples of class 'b' .* there are 140 once the hardest 0.3 are dropped"):
        require_enough(KeepFields(keep="ccs"), ["class 'a'", "class 'b'"], POOLS, [210, 141])
    assert dropped(10, 0.3) == 3


def test_random_order_of_samples_changes_no_score(dynamics):
    """Scores are of samples, not of places."""
    fields, places = DynamicsFields(score_epochs=T, window=J), list(range(N))
    random.Random(0).shuffle(places)
    run = dynamics.runs[0]
    mixed = {name: getattr(run, name)[:, places] for name in ROWS}
    moved = Dynamics((Recorded(**mixed, labels=run.labels[places], network=None),), run.labels[places])
    for score in SCORES.values():
        assert torch.allclose(score(moved, fields), score(dynamics, fields)[places])
