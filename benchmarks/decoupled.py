"""Cost of the recover stage: seconds for each image and iteration, by form, and memory.

    python benchmarks/decoupled.py recover [--network resnet18] [--side 32] [--block 10] [--groups 8] [--threads 2]
    python benchmarks/decoupled.py memory  [--network resnet18] [--side 32] [--block 10] [--groups 8]

recover: one run, forms in turn, several rounds, medians; every form does the same work on the same problems:
- "reference": a block at a time in eager float32 as the papers' codes do it: batch norms with forward hooks that take
  mean and variance, three copies for crop, flip and roll, Adam, a clamp for each channel;
- "stacked": the engine, `groups` blocks at once (1: a block at a time);
- "bf16", "compiled", and both: as `recover_precision` and `recover_compiled` of a recipe ask, the set-up given apart.

memory: peak above the process's level before, a process each, against what the engine predicts.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from ddbench.methods.engines.decoupled.codecs import pixel_bounds
from ddbench.methods.engines.decoupled.measured_norm import Voter, saved_bytes
from ddbench.methods.engines.decoupled.recover import BlockStack, ImageBlock, RecoverFields, Recovery
from torch import Tensor, nn

from ddbench.augment.crops import draw_crops
from ddbench.budget import Budget
from ddbench.data.dataset import Dataset, memory_split
from ddbench.distillation.task import Task
from ddbench.networks import create
from ddbench.randomness import rng
from ddbench.training.compute import Compute
from ddbench.training.memory import Meter

CLASSES = 10
REFERENCE = "reference, 1 block"
FORMS = {
    "bf16": {"recover_precision": "bf16"},
    "compiled": {"recover_compiled": True},
    "bf16 and compiled": {"recover_precision": "bf16", "recover_compiled": True},
}


def noise_data(side: int) -> Dataset:
    """A data set of the right shape with nothing in it."""
    split = memory_split(torch.zeros(CLASSES, 3, side, side, dtype=torch.uint8), torch.arange(CLASSES))
    names = tuple(f"class {c}" for c in range(CLASSES))
    return Dataset("noise", names, 3, side, True, (0.5,) * 3, (0.25,) * 3, split, split)


def teacher(name: str, side: int) -> nn.Module:
    """A network whose running statistics are those of noise."""
    network = create(name, channels=3, side=side, classes=CLASSES)
    with torch.no_grad():
        for _ in range(3):
            network.train()(torch.randn(16, 3, side, side, generator=rng(0, "statistics")))
    return network.eval().requires_grad_(False)


def engine(args: argparse.Namespace, groups: int, **how: object) -> tuple[BlockStack, Voter]:
    """A stack of `groups` problems on the engine."""
    data = noise_data(args.side)
    task = Task(data, Budget(ipc=1), args.network, 0, torch.device(args.device))
    fields = RecoverFields(iterations=100_000, recover_lr=0.25, r_bn=0.01, block=args.block, **how)
    voter = Voter(teacher(args.network, args.side).to(task.device), execution=fields.execution())
    bounds = tuple(bound.to(task.device) for bound in pixel_bounds(task.space("normalised"), 3))
    recovery = Recovery(task, fields, {"f": voter}, (bounds[0], bounds[1]))
    problems = [
        ImageBlock(
            (j, 0), torch.arange(args.block) % CLASSES, torch.randn(args.block, 3, args.side, args.side), {"f": 1.0}
        )
        for j in range(groups)
    ]
    return BlockStack(recovery, problems, None), voter


def reference(args: argparse.Namespace) -> Callable[[int], None]:
    """A step on one block, written as the papers' codes are."""
    network = teacher(args.network, args.side).to(args.device)
    kept: list[Tensor] = []

    def hook(module: nn.BatchNorm2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        rows = inputs[0].permute(1, 0, 2, 3).contiguous().view(inputs[0].shape[1], -1)
        assert module.running_mean is not None and module.running_var is not None
        off = torch.norm(module.running_var - rows.var(1, unbiased=False), 2)
        kept.append(off + torch.norm(module.running_mean - inputs[0].mean((0, 2, 3)), 2))

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(hook)
    images = torch.randn(args.block, 3, args.side, args.side, device=args.device).requires_grad_()
    labels = (torch.arange(args.block) % CLASSES).to(args.device)
    optimizer = torch.optim.Adam([images], lr=0.25, betas=(0.5, 0.9), eps=1e-8)

    def step(t: int) -> None:
        torch.backends.cudnn.allow_tf32 = True  # as torch comes
        kept.clear()
        generator = rng(0, "reference", t)
        top, left, tall, wide = draw_crops(1, args.side, generator)[0].tolist()
        window = images[:, :, top : top + tall, left : left + wide]
        seen = F.interpolate(window, (args.side, args.side), mode="bilinear", align_corners=False)
        seen = seen.flip(-1) if float(torch.rand((), generator=generator)) < 0.5 else seen
        seen = seen.roll(tuple(torch.randint(0, 5, (2,), generator=generator).tolist()), (2, 3))
        optimizer.zero_grad()
        loss = F.cross_entropy(network(seen), labels)
        loss = loss + 0.01 * sum((10.0 if i == 0 else 1.0) * r for i, r in enumerate(kept))
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for channel in range(3):
                images[:, channel].clamp_(-2.0, 2.0)
        torch.backends.cudnn.allow_tf32 = False

    return step


def forms(args: argparse.Namespace) -> Iterator[tuple[str, int, Callable[[int], object]]]:
    """Name, images in a step, and the step."""
    yield REFERENCE, args.block, reference(args)
    for groups in sorted({1, args.groups}):
        stack, _ = engine(args, groups)
        yield f"stacked, {groups} block{'s'[: groups > 1]}", groups * args.block, stack.step
    for name, how in FORMS.items():
        stack, _ = engine(args, args.groups, **how)
        yield f"{name}, {args.groups} blocks", args.groups * args.block, stack.step


@dataclass(frozen=True)
class Timed:
    """A form: milliseconds for an image and iteration, and seconds of the first step."""

    ms: float
    setup: float


def times(args: argparse.Namespace) -> dict[str, Timed]:
    """Every form's; `REFERENCE` is the first."""
    Compute(args.device, args.threads).apply()
    timed: dict[str, list[float]] = {}
    setup: dict[str, float] = {}
    every = list(forms(args))
    for name, _, step in every:
        setup[name] = _seconds(lambda step=step: step(0))
    for turn in range(args.rounds):
        for name, images, step in every:
            steps = range(1 + turn * args.steps, 1 + (turn + 1) * args.steps)
            spent = _seconds(lambda step=step, steps=steps: [step(t) for t in steps])
            timed.setdefault(name, []).append(spent / args.steps / images)
    return {name: Timed(1000 * statistics.median(values), setup[name]) for name, values in timed.items()}


def recover(args: argparse.Namespace) -> None:
    """Print the table of times."""
    found = times(args)
    print(f"{args.network}, {args.side} px, blocks of {args.block}, {args.threads} threads, torch {torch.__version__}")
    print("| form | ms for an image and iteration | / reference | first step, s |\n| --- | --- | --- | --- |")
    for name, each in found.items():
        print(f"| {name} | {each.ms:.3f} | {each.ms / found[REFERENCE].ms:.2f} | {each.setup:.1f} |")


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def memory(args: argparse.Namespace) -> None:
    """Print predicted and measured bytes of one stack."""
    torch.set_num_threads(args.threads)
    stack, voter = engine(args, args.groups)
    sample = torch.randn(2, 3, args.side, args.side, device=args.device)
    predicted = args.groups * args.block * saved_bytes(voter, sample) / 2
    with Meter(torch.device(args.device), interval=0.002) as meter:
        for t in range(3):
            stack.step(t)
    print(
        f"{args.groups} blocks of {args.block}: predicted {predicted / 1e6:.0f} MB, peak {(meter.peak_memory or 0) / 1e6:.0f} MB"
    )


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("recover", "memory"))
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--block", type=int, default=10)
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


if __name__ == "__main__":
    arguments = parser().parse_args()
    {"recover": recover, "memory": memory}[arguments.what](arguments)
