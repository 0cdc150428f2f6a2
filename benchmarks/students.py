"""Scoring one set: our students against a plain eager float32 loop with a DataLoader.

    python benchmarks/students.py [--rounds 3] [--steps 8] [--seeds 5] [--threads 1] [--device cpu] [--write]

`hard-v1` at 32 px: 10 classes, IPC 10, ConvNet-D3 of width 128, DSA, a batch of 100 and 1,000 steps a student. Every
measurement is a process of its own, the variants in turn. It times three trainings: 2 steps, 2 steps again, and 2 more
than `--steps`. The last two give the seconds of a step; what the first takes beyond its steps is the set-up (compiling
included), what the second takes beyond them is the set-up of each further student. A cell's time is their sum for
`--seeds` students of 1,000 steps. Prints a Markdown table; with --write it also replaces benchmarks/students.md, on CUDA
benchmarks/students_cuda.md.

The loop is what people write: `TensorDataset`, `DataLoader(shuffle=True)`, the same augmentation and optimiser, torch as
it comes. On CUDA ours are all students at once.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
from children import child
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from ddbench.augment import build_augmentation
from ddbench.evaluation.protocol import find_protocol
from ddbench.networks import create
from ddbench.randomness import rng
from ddbench.system.environment import environment, find_device
from ddbench.training.batch_schedule import BatchSchedule
from ddbench.training.compute import Compute
from ddbench.training.loop import train
from ddbench.training.precision import Execution
from ddbench.training.recipe import StudentRecipe
from ddbench.training.stacked import train_together

CLASSES, IPC, SIDE, STEPS = 10, 10, 32, 1000
SHAPE = {"channels": 3, "side": SIDE, "classes": CLASSES}
FEW = 2
VARIANTS = {
    "loop": None,
    "ours": Execution(),
    "ours, bf16": Execution("bf16"),
    "ours, compiled": Execution(compiled=True),
    "ours, bf16, compiled": Execution("bf16", compiled=True),
}


def recipe(steps: int) -> StudentRecipe:
    """`hard-v1`'s student at 32 px, for so many steps."""
    tiers = find_protocol("hard-v1").tiers
    student = next(tier.student for tier in tiers if tier.up_to is not None and tier.up_to >= SIDE)
    return StudentRecipe.model_validate({**student, "max_steps": steps})


def data() -> tuple[Tensor, Tensor]:
    """A set's images and classes; noise takes as long as pictures."""
    images = torch.randn(CLASSES * IPC, 3, SIDE, SIDE, generator=rng(0, "images"))
    return images, torch.arange(CLASSES * IPC) % CLASSES


def loop(device: torch.device, steps: int) -> None:
    """One student by the book."""
    chosen = recipe(steps)
    loader = DataLoader(TensorDataset(*data()), batch_size=chosen.batch, shuffle=True)
    network = create(chosen.network, **SHAPE).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [steps // 2], gamma=0.1)
    augment, generator = build_augmentation(chosen.augmentations[0]), torch.Generator()
    total = 0.0
    for _ in range(steps):  # one batch holds the set: a step is an epoch
        for images, labels in loader:
            logits = network(augment(images.to(device), generator))
            loss = F.cross_entropy(logits, labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()


def ours(execution: Execution, device: torch.device, students: int, steps: int) -> None:
    """One student of the suite's, or a stack of them."""
    images, classes = (each.to(device) for each in data())
    chosen = recipe(steps)
    networks = [create(chosen.network, **SHAPE, seed=seed).to(device) for seed in range(students)]
    if students == 1:
        train(networks[0], images, classes, chosen, seed=0, execution=execution)
        return
    schedules = [BatchSchedule(seed) for seed in range(students)]
    train_together(networks, images, classes, chosen, schedules=schedules, execution=execution)


def seconds_of(work: Callable[[int], None], steps: int, device: torch.device) -> float:
    started = time.perf_counter()
    work(steps)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measure(variant: str, options: argparse.Namespace) -> dict[str, float]:
    """In a process of its own: seconds of a step, of the first set-up and of a further one, and of the whole cell."""
    execution = VARIANTS[variant]
    # `find_device` turns TF32 off, which torch has on for convolutions as it comes
    device = torch.device(options.device) if execution is None else find_device(options.device)
    stacked = execution is not None and device.type == "cuda"
    students = options.seeds if stacked else 1
    if execution is None:
        torch.set_num_threads(options.threads)
    else:
        Compute(device.type, options.threads).apply()

    def work(steps: int) -> None:
        loop(device, steps) if execution is None else ours(execution, device, students, steps)

    first, again, longer = (seconds_of(work, steps, device) for steps in (FEW, FEW, FEW + options.steps))
    step = (longer - again) / options.steps
    trainings = options.seeds // students
    setup, further = first - FEW * step, again - FEW * step
    cell = setup + (trainings - 1) * further + trainings * STEPS * step
    return {"step": step / students, "setup": setup, "further": further, "cell": cell}


def apart(variant: str, options: argparse.Namespace) -> dict[str, float]:
    """Run `measure` in a fresh process."""
    words = ["--child", variant, "--device", options.device]
    words += [word for name in ("steps", "seeds", "threads") for word in (f"--{name}", str(getattr(options, name)))]
    return child(__file__, *words, threads=options.threads)


def medians(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Of every variant, over the rounds."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for index in range(options.rounds):
        for name in list(VARIANTS)[:: 1 if index % 2 == 0 else -1]:
            found[name].append(apart(name, options))
            print(f"{name}, round {index + 1} of {options.rounds}: {found[name][-1]}", file=sys.stderr)
    return {name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()}


def gain(middle: dict[str, dict[str, float]], name: str, key: str) -> float:
    """How many times as fast as the loop: a "step", or the whole "cell"."""
    return middle["loop"][key] / middle[name][key]


def table(middle: dict[str, dict[str, float]], seeds: int) -> str:
    lines = [
        f"| students | ms a step and student | set-up, s | further, s | cell of {seeds}, s | steady: times as fast "
        "| whole cell: times as fast |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, each in middle.items():
        lines.append(
            f"| {name} | {1e3 * each['step']:.1f} | {each['setup']:.1f} | {each['further']:.1f} | {each['cell']:.0f} | "
            f"{gain(middle, name, 'step'):.2f} | {gain(middle, name, 'cell'):.2f} |"
        )
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--child", metavar="VARIANT", help=argparse.SUPPRESS)
    return parser


def main() -> None:
    options = parser().parse_args()
    if options.child:
        print(json.dumps(measure(options.child, options)))
        return
    middle = medians(options)
    print(table(middle, options.seeds))
    if options.write:
        write(middle, options)


def write(middle: dict[str, dict[str, float]], options: argparse.Namespace) -> None:
    """Replace the page of this kind of device."""
    cuda = find_device(options.device).type == "cuda"
    where = environment()["cuda"] if cuda else f"{environment()['processor']}, {options.threads} thread(s)"
    about = (
        f"Medians of {options.rounds} processes, {options.steps} steps timed in each; {where}, torch "
        f"{torch.__version__}, {datetime.now(UTC):%Y-%m-%d}."
    )
    text = f"# Scoring one set\n\n{table(middle, options.seeds)}\n\n{about}\n\nMade by `python benchmarks/students.py --write`.\n"
    path = Path(__file__).with_suffix(".md")
    path.with_stem("students_cuda" if cuda else "students").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
