"""Pruning scores, functions of training dynamics, and the rules that keep samples by them.

Every score is called with (dynamics, fields) and gives float64 [n], larger for samples that are harder to learn (or, of
Dyn-Unc, DUAL and TDDS, more informative): hard-first keeps the largest. With p = softmax(z), epochs t = 1 .. T:

el2n        mean_t || p_t - y ||_2                                     Paul et al. 2021, arXiv 2107.07075
grand       mean_t || p_t - y ||_2 sqrt(1 + || h_t ||^2)               the last layer's part of their GraNd
forgetting  number of t with x right at t - 1 and wrong at t; T if x was never right    Toneva et al. 2019, arXiv 1812.05159
aum         - sum_t (z_t^y - max_{k != y} z_t^k); aum-prob: of p instead of z          Pleiss et al. 2020, arXiv 2001.10528
entropy     - sum_c p_T log p_T                                        Coleman et al. 2020, arXiv 1906.11829
dyn-unc     mean over windows of J epochs of std_J(p^y)                He et al. 2023, arXiv 2306.05175
dual        mean over windows of 10 std_J(p^y) (1 - mean_J(p^y))       Cho et al. 2025, arXiv 2502.06905
tdds        d_t = sum_c | p_t log(p_t / p_(t-1)) |; || d - mean_J(d) ||_2 of each window, the last window weighted a, the
            one before a (1 - a) and so on                             Zhang et al. 2024, arXiv 2311.13613
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ddbench.distillation.method import Hyper
from ddbench.distillation.task import Task
from ddbench.errors import UsageError

from .dynamics import Dynamics, DynamicsFields, Recorded

Definition = Callable[[Recorded, DynamicsFields], Tensor]


@dataclass(frozen=True)
class Score:
    """A score: its definition on one training, averaged over the trainings.

    Attributes:
        definition: gives float64 [n].
        windows: how many more epochs than `window` it needs to read; None: any number will do.
        movement: whether it reads `Recorded.movement`.
    """

    definition: Definition
    windows: int | None = None
    movement: bool = False

    def __call__(self, dynamics: Dynamics, fields: DynamicsFields) -> Tensor:
        """Score of every training sample, float64 [n]."""
        return torch.stack([self.definition(run, fields) for run in dynamics.runs]).mean(0)

    def require_epochs(self, fields: DynamicsFields) -> None:
        """Raise UsageError if the epochs that are read make no window; called before a training."""
        read = (fields.score_last or fields.score_epochs) - fields.score_first + 1
        if self.windows is not None and read < fields.window + self.windows:
            raise UsageError(
                f"a window of {fields.window} epochs needs at least {fields.window + self.windows} to be read, "
                f"but {read} are: raise score_epochs or lower window"
            )


def el2n(run: Recorded, fields: DynamicsFields) -> Tensor:
    """See the module."""
    return run.error.double().mean(0)


def grand(run: Recorded, fields: DynamicsFields) -> Tensor:
    """See the module; the gradient is that of cross-entropy by the last layer's weights and biases."""
    return (run.error.double() * (1 + run.feature.double()).sqrt()).mean(0)


def forgetting(run: Recorded, fields: DynamicsFields) -> Tensor:
    """See the module; before the first epoch a sample counts as wrong."""
    right = run.prediction == run.labels
    events = (right[:-1] & ~right[1:]).sum(0)
    return torch.where(right.any(0), events, len(right)).double()


def aum(run: Recorded, fields: DynamicsFields) -> Tensor:
    """See the module."""
    return -run.margin.double().sum(0)


def aum_prob(run: Recorded, fields: DynamicsFields) -> Tensor:
    """See the module."""
    return -(run.true.double() - run.other.double()).sum(0)


def entropy(run: Recorded, fields: DynamicsFields) -> Tensor:
    """See the module."""
    return run.entropy[-1].double()


def dyn_unc(run: Recorded, fields: DynamicsFields) -> Tensor:
    """See the module; standard deviations with J - 1, which ranks alike."""
    return _windows(run.true, fields.window).std(2).mean(0)


def dual(run: Recorded, fields: DynamicsFields) -> Tensor:
    """See the module; standard deviations with J - 1."""
    windows = _windows(run.true, fields.window)
    return (10 * windows.std(2) * (1 - windows.mean(2))).mean(0)


def tdds(run: Recorded, fields: DynamicsFields) -> Tensor:
    """See the module; the first epoch has none before it, so that T - 1 movements are windowed."""
    assert run.movement is not None
    windows = _windows(run.movement[1:], fields.window)
    spread = (windows - windows.mean(2, keepdim=True)).norm(dim=2)
    age = torch.arange(len(windows) - 1, -1, -1, dtype=torch.float64)
    return (fields.decay * (1 - fields.decay) ** age) @ spread


def _windows(rows: Tensor, size: int) -> Tensor:
    """Rows [T, n] as overlapping windows, float64 [T - size + 1, n, size]."""
    return rows.double().unfold(0, size, 1)


SCORES: Mapping[str, Score] = {
    "el2n": Score(el2n),
    "grand": Score(grand),
    "forgetting": Score(forgetting),
    "aum": Score(aum),
    "aum-prob": Score(aum_prob),
    "entropy": Score(entropy),
    "dyn-unc": Score(dyn_unc, windows=0),
    "dual": Score(dual, windows=0),
    "tdds": Score(tdds, windows=1, movement=True),
}

Keep = Literal["hard", "easy", "ccs", "beta"]


class KeepFields(Hyper):
    """Rule by which samples are kept."""

    keep: Keep = Field(
        "hard", description="hard: largest scores; easy: smallest; ccs: strata of the score; beta: drawn"
    )
    balance: bool = Field(True, description="each class keeps its share; false: the whole split is ranked at once")
    mis_ratio: float = Field(0.3, ge=0, lt=1, description="ccs: beta, share of the hardest samples that is dropped")
    strata: int = Field(50, ge=1, description="ccs: k, bins of equal width")
    beta_c: float = Field(4.0, gt=0, description="beta: c, how soon easy samples are preferred as less is kept")


def kept(
    task: Task, fields: KeepFields, scores: Tensor, truth: Tensor, pools: Sequence[Tensor], counts: Sequence[int]
) -> Tensor:
    """Places of the samples that are kept, int64, pool by pool.

    Args:
        task: its synthesis seed keys what is drawn.
        fields: the rule.
        scores: float64 [n].
        truth: float64 [n], mean probability of the true class (for "beta").
        pools: places, int64 each: of a class, or all of them.
        counts: how many to keep of each pool; see `require_enough`.
    """
    chosen = []
    for number, (pool, count) in enumerate(zip(pools, counts, strict=True)):
        own = scores[pool]
        if fields.keep == "ccs":
            picked = stratified_choice(own, count, fields.mis_ratio, fields.strata, task.rng("ccs", number))
        elif fields.keep == "beta":
            picked = beta_choice(own, truth[pool], count, fields.beta_c, task.rng("beta", number))
        else:
            picked = own.argsort(descending=fields.keep == "hard", stable=True)[:count]
        chosen.append(pool[picked])
    return torch.cat(chosen)


def require_enough(fields: KeepFields, names: Sequence[str], pools: Sequence[Tensor], counts: Sequence[int]) -> None:
    """Raise UsageError where a pool (named for people) has fewer samples than are to be kept; called before a training."""
    for name, pool, count in zip(names, pools, counts, strict=True):
        left = len(pool) - dropped(len(pool), fields.mis_ratio) if fields.keep == "ccs" else len(pool)
        if count > left:
            without = f" once the hardest {fields.mis_ratio:g} are dropped" if left < len(pool) else ""
            raise UsageError(f"{count} samples of {name} were asked for, but there are {left}{without}")


def dropped(size: int, mis_ratio: float) -> int:
    """Number of `size` samples that CCS drops."""
    return int(mis_ratio * size)


def stratified_choice(scores: Tensor, count: int, mis_ratio: float, strata: int, generator: torch.Generator) -> Tensor:
    """Coverage-centric selection: Zheng et al. 2023, arXiv 2210.15809, algorithm 1.

    1. Drop the `mis_ratio` hardest. 2. Split the rest into `strata` bins of equal width of the score. 3. Smallest bin
    first: a bin's budget is what is left of `count` over the bins that are left, rounded down, at most all it has; draw
    so many of it at random. The last bin takes what is left.

    Returns:
        Positions in `scores`, int64 [count].
    """
    rest = scores.argsort(stable=True)[: len(scores) - dropped(len(scores), mis_ratio)]
    values = scores[rest]
    width = (values[-1] - values[0]) / strata
    bins = ((values - values[0]) / width).long().clamp(max=strata - 1) if width > 0 else torch.zeros_like(rest)
    members = sorted((rest[bins == b] for b in bins.unique().tolist()), key=len)
    chosen, left = [], count
    for place, stratum in enumerate(members):
        share = min(len(stratum), left // (len(members) - place))
        chosen.append(stratum[torch.randperm(len(stratum), generator=generator)[:share]])
        left -= share
    return torch.cat(chosen)


def beta_choice(scores: Tensor, truth: Tensor, count: int, c: float, generator: torch.Generator) -> Tensor:
    """DUAL's beta sampling (arXiv 2502.06905): draw without replacement, weight BetaPDF(p^y; a, b) times score.

    b = 15 (1 - m) (1 - r^c), a = 16 - b, with r the share that is pruned and m the mean p^y of the ten largest scores:
    the fewer are kept, the easier they are.

    Args:
        scores: float64 [n], not negative.
        truth: float64 [n], mean probability of the true class.
        count: how many.
        c: see above.
        generator: of the draws.

    Returns:
        Positions, int64 [count].
    """
    pruned = 1 - count / len(scores)
    middle = float(truth[scores.topk(min(10, len(scores))).indices].mean())
    b = max(15 * (1 - middle) * (1 - pruned**c), 1e-6)
    density = torch.distributions.Beta(
        torch.tensor(16 - b, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    ).log_prob(truth.clamp(1e-9, 1 - 1e-9))
    weights = density + scores.clamp_min(1e-300).log()
    # the largest of log w - log(an exponential draw): successive draws without replacement (Efraimidis, Spirakis 2006)
    uniform = torch.rand(len(scores), generator=generator, dtype=torch.float64).clamp_min(1e-300)
    return (weights - (-uniform.log()).log()).topk(count).indices
