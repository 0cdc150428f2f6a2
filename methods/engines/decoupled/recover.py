"""Recover stage of the decoupled family: images that a frozen teacher classifies right and whose statistics it knows.

A block is B images, one of each of B classes, recovered together (SRe2L, arXiv 2306.13092). With f a teacher in eval mode, x_l
the input of its l-th batch norm (in the order of its modules), mu_l and var_l the mean and the BIASED variance of x_l
over images and positions, m_l and v_l the running ones:

    r_l = || v_l - var_l ||_2 + || m_l - mu_l ||_2            (norms over channels, not squared)
    L   = sum_i w_i ( CE(f_i(A(x)), y) + r_bn (10 r_1 + sum_{l >= 2} r_l) )       i over the voters, CE the batch mean

A(x): RandomResizedCrop with area in (c(t), 1), horizontal flip, then roll; each drawn once a step for the whole block.
x <- Adam(betas 0.5 and 0.9), step size lr (1 + cos(pi t / T)) / 2, t = 0 .. T - 1, then clamped to the pixel range. The
last iterate counts. A snapshot at step t is of every block after its own t steps, whenever those were. With
`compensate`, what is learned is one image u, 0 at first, that is added to all B images, which stay (INFER); nothing
clamps u. With a `Refinement` every pixel has a share M of its step (NRR-DD): x <- x - M eta grad L, or x + M (Adam's x -
x), eta falling like lr or staying; M is looked up anew every so many steps, and 0 is no step at all.

Blocks do not know of each other, so several are stacked: each has batch statistics, crop, flip and roll of its own,
and the sum of their losses is descended (Adam works element by element, so that is the same as one after another).
Crop, flip and roll are one gather; the statistics and the normalization of a layer are one function with a gradient in
closed form, d r / d x = (mu - m) / (|mu - m| n) + 2 (x - mu) (var - v) / (|var - v| n), n values a channel.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor

from ddbench.distillation.method import Hyper
from ddbench.distillation.task import Task
from ddbench.errors import JobFailed
from ddbench.randomness import Key
from ddbench.synset.synset import SynSet
from ddbench.training.precision import Execution

from .measured_norm import Voter, require_norms, saved_bytes
from .windows import Draws, draw_windows, view

BETAS, EPS = (0.5, 0.9), 1e-8
WINDOW = 100  # steps whose draws one generator gives
CPU_PIXELS = 100 * 32 * 32  # images of a stack on a CPU: more than fit its caches are no faster
CUDA_PIXELS = 4000 * 32 * 32


class RecoverFields(Hyper):
    """Recovery of images."""

    iterations: int = Field(ge=1, description="steps on every image, T")
    recover_lr: float = Field(gt=0, description="step size of Adam on the pixels, before its cosine")
    r_bn: float = Field(ge=0, description="weight of the batch-norm statistics, r_bn")
    block: int = Field(100, ge=1, description="classes in a block, one image each; at most all there are")
    crop: bool = Field(True, description="random resized crop and flip before the roll")
    crop_low: float = Field(0.08, gt=0, le=1, description="smallest share of the area in a crop")
    curriculum: Literal["none", "step", "linear", "cosine"] = Field(
        "none", description="how c falls from 1 to crop_low"
    )
    milestone: float = Field(1.0, ge=0, le=1, description="share of the steps over which c falls")
    roll: tuple[int, int] = Field((0, 4), description="smallest and largest roll, pixels, in each direction")
    recover_precision: Literal["float32", "bf16"] = Field(
        "float32",
        exclude_if=lambda word: word == "float32",
        description="of the voters' products; statistics, images and Adam are float32",
    )
    recover_compiled: bool = Field(
        False, exclude_if=lambda compiled: not compiled, description="whether the voters are compiled (torch.compile)"
    )

    @field_validator("roll")
    @classmethod
    def _rising(cls, roll: tuple[int, int]) -> tuple[int, int]:
        if roll[0] > roll[1]:
            raise ValueError(f"the smallest roll is above the largest: {list(roll)}")
        return roll

    def execution(self) -> Execution:
        """Precision of the voters, and whether they are compiled."""
        return Execution(self.recover_precision, self.recover_compiled)

    def require_voters(self, task: Task, names: Sequence[str]) -> None:
        """Raise UsageError where a network has nothing to measure, or the device does not compute it as asked for."""
        require_norms(task, names)
        self.execution().require(task.device.type)


@dataclass(frozen=True, eq=False)
class ImageBlock:
    """Images that are recovered together, one of each of some classes.

    Attributes:
        key: what its draws are keyed by: (IPC index, number of the block), say.
        labels: int64 [B].
        start: [B, C, H, W] in the teachers' space: where the images begin, or (compensate) the images that stay; or what
            gives them, each time the same, so that not all blocks' images are in memory.
        votes: voter's name -> weight.
    """

    key: tuple[Key, ...]
    labels: Tensor
    start: Tensor | Callable[[], Tensor]
    votes: Mapping[str, float]

    def begin(self, device: torch.device) -> Tensor:
        """Initial images, on a device."""
        return (self.start if isinstance(self.start, Tensor) else self.start()).to(device)


def lower_bound(fields: RecoverFields, step: int) -> float:
    """c(t), the smallest area of a crop at a step: falls from 1 to `crop_low` over milestone * T steps (CDA)."""
    end = fields.milestone * fields.iterations
    if fields.curriculum == "none" or step >= end:
        return fields.crop_low
    span = 1 - fields.crop_low
    if fields.curriculum == "step":
        return 1.0
    share = 1 - step / end if fields.curriculum == "linear" else (1 + math.cos(math.pi * step / end)) / 2
    return fields.crop_low + span * share


@dataclass(frozen=True, eq=False)
class Refinement:
    """Steps of which every pixel has its own share, in the place of Adam's.

    Attributes:
        mask: (images [G B, C, H, W], int64 labels [G B]) -> shares [G B, H, W], 0 or more; without gradients.
        every: steps for which shares hold; those of step t were looked up at t - t % every.
        step: "plain", against the gradient, or "adam".
        schedule: of the step size: "constant", or the "cosine" of the module.
    """

    mask: Callable[[Tensor, Tensor], Tensor]
    every: int = 1
    step: Literal["plain", "adam"] = "plain"
    schedule: Literal["constant", "cosine"] = "constant"


class Recovery:
    """Recovers blocks, several at once, for one task; resumes at a checkpoint."""

    def __init__(
        self,
        task: Task,
        fields: RecoverFields,
        voters: Mapping[str, Voter],
        bounds: tuple[Tensor, Tensor] | None,
        *,
        compensate: bool = False,
        at_once: int | None = None,
        refine: Refinement | None = None,
    ) -> None:
        """Say how.

        Args:
            task: its generators, device, checkpoint and progress are used.
            fields: how images are recovered.
            voters: teachers by name, frozen.
            bounds: lowest and highest value of a channel, [C, 1, 1] each; None: nothing is clamped.
            compensate: learn one image that is added to all of a block's, see above.
            at_once: blocks in a stack; None: what suits the device and fits its memory.
            refine: a share of each step for every pixel; None: all of it. It is for images, not for compensators.
        """
        assert refine is None or not compensate
        self.task, self.fields, self.voters, self.bounds = task, fields, voters, bounds
        self.compensate, self.at_once, self.refine = compensate, at_once, refine

    def run(
        self,
        blocks: Sequence[ImageBlock],
        kept: Callable[[Tensor], Tensor] | None = None,
        make_set: Callable[[list[Tensor]], SynSet] | None = None,
    ) -> list[Tensor]:
        """Recover blocks: what was learned for each, [B, C, H, W], or [1, C, H, W] where it is a compensator; on the CPU.

        `kept` says what is kept of it as soon as it is there, 8-bit pixels say; None: all. `make_set` gives the set of what is
        kept of all blocks, for snapshots.

        Raises:
            JobFailed: something is not finite; the last good checkpoint stays.
        """
        steps = self.fields.iterations
        keep = kept or (lambda learned: learned.cpu())  # where the results of an interrupted run are, too
        state = self.task.resume() or {"step": 0, "found": [], "stacks": list(self._stacks(blocks))}
        stacks: list[list[int]] = state["stacks"]  # a resumed run keeps those that it began with, on any machine
        finished: dict[int, Tensor] = {int(i): tensor for i, tensor in state["found"]}
        marks = self.task.snapshot_steps(steps) if make_set else ()
        passed = {(int(t), int(i)): tensor for t, i, tensor in state.get("passed", [])}
        current: BlockStack | None = None
        for step in self.task.loop(state["step"], steps * len(stacks), "recovering images"):
            number, t = divmod(step, steps)
            if current is None or t == 0:
                members = stacks[number]
                current = BlockStack(self, [blocks[i] for i in members], state if t else None)
            if make_set and t in marks:
                passed.update({(t, i): keep(part) for i, part in zip(stacks[number], current.parts(), strict=True)})
                if number == len(stacks) - 1:
                    parts = [passed.pop((t, i)) for i in range(len(blocks))]
                    self.task.snapshot(t, steps, partial(make_set, parts))
            loss = current.step(t)
            if t == steps - 1:
                finished.update(zip(stacks[number], map(keep, current.parts()), strict=True))
            if t % WINDOW == 0 or t == steps - 1:
                _require_finite(step, loss, current.values)
                self.task.report(step, loss=float(loss) / len(stacks[number]))
            self.task.checkpoint(partial(self._state, step + 1, stacks, finished, passed, current))
        # a dry run does not come to all: of those that are left, one start of each size stands for the others
        left = {len(block.labels): block for i, block in enumerate(blocks) if i not in finished}
        blank = {size: keep(self.first(block.begin(self.task.device))) for size, block in left.items()}
        return [finished[i] if i in finished else blank[len(block.labels)] for i, block in enumerate(blocks)]

    def first(self, start: Tensor) -> Tensor:
        """Initial value of what is learned of a block that begins as `start`."""
        return torch.zeros_like(start[:1]) if self.compensate else start

    def _state(
        self,
        done: int,
        stacks: list[list[int]],
        finished: Mapping[int, Tensor],
        passed: Mapping[tuple[int, int], Tensor],
        stack: "BlockStack",
    ) -> dict[str, Any]:
        _require_finite(done - 1, stack.values)  # so that a run can resume from every checkpoint
        over = [i for members in stacks[: done // self.fields.iterations] for i in members]
        return {
            "step": done,
            "stacks": stacks,
            "found": [[i, finished[i]] for i in over],
            "passed": [[t, i, tensor] for (t, i), tensor in passed.items()],
            "stack": stack.values.detach(),
            "adam": stack.optimizer.state_dict(),
            **({} if stack.shares is None else {"shares": stack.shares}),
        }

    def _stacks(self, blocks: Sequence[ImageBlock]) -> Iterator[list[int]]:
        """Blocks of equal size and equal votes, as many at once as is wise; in the order of their first."""
        alike: dict[tuple[Any, ...], list[int]] = {}
        for i, block in enumerate(blocks):
            alike.setdefault((len(block.labels), tuple(sorted(block.votes.items()))), []).append(i)
        for members in alike.values():
            size = self.at_once or self._wise(blocks[members[0]], len(members))
            yield from (members[first : first + size] for first in range(0, len(members), size))

    def _wise(self, block: ImageBlock, count: int) -> int:
        """Choose how many blocks like this one go at once: what keeps the device busy, and fits into a quarter of its memory.

        Not of the memory that is free: equal runs on one machine must give equal bits, whatever else runs there.
        """
        device, images = self.task.device, len(block.labels)
        pixels = images * self.task.dataset.side**2
        size = max(1, min(count, (CPU_PIXELS if device.type == "cpu" else CUDA_PIXELS) // pixels))
        if size == 1:
            return 1
        sample = block.begin(device)[:2]
        needed = images * sum(saved_bytes(self.voters[name], sample) for name in block.votes) / len(sample)
        return max(1, min(size, int(memory_bytes(device) / 4 / max(needed, 1))))

    def draws(self, block: ImageBlock, window: int) -> Draws:
        """Crop, flip and roll of a block in the steps window * WINDOW and following."""
        fields, side = self.fields, self.task.dataset.side
        first = window * WINDOW
        steps = range(first, min(first + WINDOW, fields.iterations))
        generator = self.task.rng("recover", *block.key, window)
        lows = [lower_bound(fields, t) for t in steps] if fields.crop else None
        return draw_windows(len(steps), side, generator, lows=lows, flip=self.task.dataset.flip, roll=fields.roll)


class BlockStack:
    """Blocks that are recovered at the same time."""

    def __init__(self, recovery: Recovery, blocks: Sequence[ImageBlock], state: Mapping[str, Any] | None) -> None:
        self.recovery, self.blocks = recovery, blocks
        device = recovery.task.device
        self.groups, self.images = len(blocks), len(blocks[0].labels)
        self.labels = torch.cat([block.labels for block in blocks]).to(device)
        starts = [block.begin(device) for block in blocks] if state is None or recovery.compensate else []
        self.still = torch.cat(starts) if recovery.compensate else None
        values = torch.cat([recovery.first(start) for start in starts]) if state is None else state["stack"].to(device)
        self.values = values.clone().requires_grad_()
        self.optimizer: torch.optim.Optimizer
        if recovery.refine is not None and recovery.refine.step == "plain":
            self.optimizer = torch.optim.SGD([self.values], lr=recovery.fields.recover_lr)
        else:
            self.optimizer = torch.optim.Adam([self.values], lr=recovery.fields.recover_lr, betas=BETAS, eps=EPS)
        self.shares: Tensor | None = None
        if state is not None:
            self.optimizer.load_state_dict(state["adam"])
            self.shares = state["shares"].to(device) if recovery.refine else None
        self._window, self._draws = -1, list[Draws]()

    def step(self, t: int) -> Tensor:
        """One step of the optimizer on all of them; gives the sum of the losses before it."""
        fields, bounds, refine = self.recovery.fields, self.recovery.bounds, self.recovery.refine
        constant = refine is not None and refine.schedule == "constant"
        for group in self.optimizer.param_groups:
            group["lr"] = fields.recover_lr * (1 if constant else (1 + math.cos(math.pi * t / fields.iterations)) / 2)
        loss = self.loss(t)
        self.optimizer.zero_grad()
        loss.backward()
        if refine is None:
            self.optimizer.step()
        else:
            self._refine(refine, t)
        if bounds is not None:
            with torch.no_grad():
                self.values.copy_(torch.minimum(torch.maximum(self.values, bounds[0]), bounds[1]))
        return loss.detach()

    @torch.no_grad()
    def _refine(self, refine: Refinement, t: int) -> None:
        """Take the optimizer's step, of which every pixel has its share."""
        if t % refine.every == 0:
            self.shares = refine.mask(self.values.detach(), self.labels)
        assert self.shares is not None and self.values.grad is not None
        shares = self.shares[:, None]
        if refine.step == "plain":  # the formula to the letter: the share before the product with the step size
            self.values.grad.mul_(shares)
            self.optimizer.step()
            return
        before = self.values.clone()
        self.optimizer.step()
        self.values.copy_(before + shares * (self.values - before))

    def loss(self, t: int) -> Tensor:
        """Sum over blocks of their losses at a step."""
        if self._window != t // WINDOW:
            self._window = t // WINDOW
            self._draws = [self.recovery.draws(block, self._window) for block in self.blocks]
        seen = view(self._seen(), [draws.at(t % WINDOW) for draws in self._draws])
        total = seen.new_zeros(())
        for name, weight in self.blocks[0].votes.items():
            logits, apart = self.recovery.voters[name](seen, self.groups)
            errors = F.cross_entropy(logits, self.labels, reduction="none").view(self.groups, -1).mean(1)
            total = total + weight * (errors + self.recovery.fields.r_bn * apart).sum()
        return total

    def _seen(self) -> Tensor:
        """Images [G B, C, H, W] before they are cropped."""
        if self.still is None:
            return self.values
        return self.still + self.values.repeat_interleave(self.images, dim=0)

    def parts(self) -> tuple[Tensor, ...]:
        """Images, or compensator, of each block."""
        return self.values.detach().clone().chunk(self.groups)


def memory_bytes(device: torch.device) -> int:
    """Memory that a device has."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _require_finite(step: int, *values: Tensor) -> None:
    if not all(bool(torch.isfinite(tensor).all()) for tensor in values):
        raise JobFailed(f"diverged: the images or their loss are not finite at recover step {step}; lower recover_lr")
