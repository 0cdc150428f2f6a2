"""One outer iteration of trajectory matching by mode: memory and time; and the angle of TESLA's gradient along a run.

    python benchmarks/trajectory_matching.py cost [--threads 2] [--only memory|time]
    python benchmarks/trajectory_matching.py angle --dataset digits --ipc 1 [--every 20] [--set iterations=120]

cost: ConvNet-D3 of width 128 at 32 px, DSA, hard labels. Every figure comes from a process of its own; for times it
runs one gradient to warm up, then `--repeats` more. "plain" is what the papers' codes do: a network built anew in each
iteration, experts kept as lists of tensors that are joined when they are read, the student's weights cut from one vector
at every step, autograd through all of it. "unrolled" is the engine doing the same on one network; "adjoint" what
recipes use; "compiled" the adjoint with both step functions compiled (`match_compiled`), its set-up given apart.

angle: cosine between the truncated and the exact gradient of the images, ratio of their norms, and ratio of the
derivatives by the step size, at every so many iterations of a run of `mtt` with its recipe for the cell. The run
follows the exact gradient.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from datetime import UTC, datetime

import torch
import torch.nn.functional as F
from children import child
from ddbench.methods.engines.trajectory.experts import ExpertRecipe
from ddbench.methods.engines.trajectory.flat import FlatNetwork, flatten
from ddbench.methods.engines.trajectory.gradient import InnerStep, Segment, Synthetic, TrajectoryEngine
from ddbench.methods.engines.trajectory.outer_loop import (
    Learned,
    draw_start,
    dsa_of,
    one_hot,
    open_experts,
    real_images,
    segment_of,
)
from torch import Tensor

from ddbench.augment import DSA
from ddbench.budget import Budget
from ddbench.data.registry import load_dataset
from ddbench.distillation.method import find_method
from ddbench.distillation.recipes import parse_overrides, resolve
from ddbench.distillation.task import Task
from ddbench.networks import create
from ddbench.randomness import rng
from ddbench.training.compute import Compute
from ddbench.training.memory import Meter

CLASSES, SIDE = 10, 32
MEMORY = ((1, 50), (10, 30))  # IPC, N
TIME = ((1, 10), (10, 4))
MODES = ("plain", "unrolled", "adjoint", "truncated", "compiled")


def problem(ipc: int, steps: int, device: torch.device) -> tuple[FlatNetwork, Segment, Synthetic]:
    """A problem of the shape of CIFAR-10 with everything at random."""
    images, dsa = CLASSES * ipc, DSA()
    network = create("convnet-d3", channels=3, side=SIDE, classes=CLASSES).to(device)
    start = flatten(network)
    target = start + 0.01 * torch.randn(len(start), generator=rng(0, "target")).to(device)
    inner = [
        InnerStep(torch.arange(images, device=device), dsa.draw(images, SIDE, rng(0, "dsa", i))) for i in range(steps)
    ]
    labels = F.one_hot(torch.arange(CLASSES).repeat_interleave(ipc), CLASSES).float()
    pixels = torch.randn(images, 3, SIDE, SIDE, generator=rng(0, "images"))
    learned = Synthetic(pixels.to(device), labels.to(device), 0.01)
    return FlatNetwork(network), Segment(start, {steps: target}, inner), learned


def plain(segment: Segment, synthetic: Synthetic) -> Tensor:
    """The gradient by the images, by the book."""

    def as_list(vector: Tensor) -> list[Tensor]:
        return [p.clone() for p in unflatten(vector)]

    def unflatten(vector: Tensor) -> list[Tensor]:
        parts = vector.split([p.numel() for p in network.parameters()])
        return [part.view(p.shape) for part, p in zip(parts, network.parameters(), strict=True)]

    network = create("convnet-d3", channels=3, side=SIDE, classes=CLASSES).to(segment.start.device)
    names = [name for name, _ in network.named_parameters()]
    (last, target), dsa = next(iter(segment.targets.items())), DSA()
    buffer = [as_list(segment.start), as_list(target)]  # what a file of experts holds
    start, goal = (torch.cat([p.reshape(-1) for p in each]) for each in buffer)
    images = synthetic.images.clone().requires_grad_()
    syn_lr = start.new_tensor(synthetic.syn_lr).requires_grad_()
    students = [start.clone().requires_grad_()]
    for step in segment.steps[:last]:
        seen = dsa.apply(images[step.index], step.drawn)
        weights = dict(zip(names, unflatten(students[-1]), strict=True))
        value = F.cross_entropy(torch.func.functional_call(network, weights, seen), synthetic.labels[step.index])
        (slope,) = torch.autograd.grad(value, students[-1], create_graph=True)
        students.append(students[-1] - syn_lr * slope)
    loss = F.mse_loss(students[-1], goal, reduction="sum") / F.mse_loss(start, goal, reduction="sum")
    loss.backward()
    assert images.grad is not None
    return images.grad


def measure(mode: str, ipc: int, steps: int, repeats: int, threads: int, device: str) -> dict[str, object]:
    """In a process of its own: seconds and CPU seconds of each gradient, peak bytes above the baseline, the loss."""
    if mode == "plain":  # as torch comes
        torch.set_num_threads(threads)
    else:
        Compute(device, threads).apply()
    where = torch.device(device)
    network, segment, synthetic = problem(ipc, steps, where)
    compiled = mode == "compiled"
    engine = TrajectoryEngine(network, DSA(), "adjoint" if compiled or mode == "plain" else mode, compiled=compiled)
    F.cross_entropy(network(segment.start, synthetic.images[:2]), synthetic.labels[:2])  # libraries load
    wall, cpu = [], []
    with Meter(where, interval=0.002) as meter:
        for _ in range(repeats + (repeats > 1)):
            started, used = time.perf_counter(), time.process_time()
            found = plain(segment, synthetic) if mode == "plain" else engine.roll(segment, synthetic).gradient().images
            if where.type == "cuda":
                torch.cuda.synchronize()
            wall.append(time.perf_counter() - started)
            cpu.append(time.process_time() - used)
    kept = slice(1, None) if repeats > 1 else slice(None)
    return {
        "wall": wall[kept],
        "cpu": cpu[kept],
        "setup": wall[0] - statistics.median(wall[kept]),
        "peak": meter.peak_memory,
        "norm": float(found.norm()),
    }


def apart(*words: object, threads: int, device: str = "cpu") -> dict:
    """Run `measure` in a fresh process."""
    found = child(__file__, "child", *words, threads, device, threads=threads)
    print(*words, str(found)[:160], file=sys.stderr)
    return found


def memory_table(threads: int) -> str:
    lines = [
        "| IPC, N | unrolled, MB | adjoint, MB | adjoint / unrolled | truncated, MB |",
        "| --- | --- | --- | --- | --- |",
    ]
    for ipc, steps in MEMORY:
        peak = {mode: apart(mode, ipc, steps, 1, threads=threads)["peak"] / 1e6 for mode in MODES[1:4]}
        ratio = peak["adjoint"] / peak["unrolled"]
        lines.append(
            f"| {ipc}, {steps} | {peak['unrolled']:,.0f} | {peak['adjoint']:,.0f} | 1/{1 / ratio:.1f} "
            f"| {peak['truncated']:,.0f} |"
        )
    return "\n".join(lines)


def times(threads: int, repeats: int, rounds: int, device: str) -> dict[tuple[int, int], dict[str, float]]:
    """By IPC and N: seconds of a gradient in every mode, and of compiling ("setup")."""
    every = dict[tuple[int, int], dict[str, float]]()
    for ipc, steps in TIME:
        found: dict[str, list[dict]] = {mode: [] for mode in MODES}
        for index in range(rounds):
            for mode in MODES if index % 2 == 0 else MODES[::-1]:
                found[mode].append(apart(mode, ipc, steps, repeats, threads=threads, device=device))
        took = {mode: statistics.median(t for run in runs for t in run["wall"]) for mode, runs in found.items()}
        every[ipc, steps] = {**took, "setup": statistics.median(run["setup"] for run in found["compiled"])}
    return every


def time_table(every: dict[tuple[int, int], dict[str, float]]) -> str:
    lines = [
        "| images, N | plain, s | unrolled, s | times as fast | adjoint, s | times as fast | truncated, s | times as fast "
        "| compiled, s | times as fast | set-up, s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (ipc, steps), took in every.items():
        cells = [f"{CLASSES * ipc}, {steps}", f"{took['plain']:.2f}"]
        for mode in MODES[1:]:
            cells += [f"{took[mode]:.2f}", f"{took['plain'] / took[mode]:.2f}"]
        cells.append(f"{took['setup']:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def angle_table(dataset: str, ipc: int, every: int, changes: list[str]) -> str:
    data = load_dataset(dataset)
    method = find_method("mtt")
    recipe = resolve(method, data, Budget(ipc=ipc), overrides=parse_overrides(method, changes))
    task, hyper = Task(data, recipe.budget, recipe.network, 0, torch.device("cpu")), recipe.hyper
    experts = open_experts(task, hyper, ExpertRecipe())
    engines = {mode: TrajectoryEngine(experts.network, dsa_of(task), mode) for mode in ("adjoint", "truncated")}
    learned = Learned(real_images(task, task.space(hyper.space)), one_hot(task), hyper.lr_teacher)
    lines = [
        f"{data.id}, IPC {ipc}, N = {hyper.syn_steps}, M = {hyper.expert_epochs}, {hyper.experts} experts:\n",
        "| iteration | loss | syn_lr | cosine | norm, truncated / exact | by syn_lr, truncated / exact |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for iteration in range(hyper.iterations):
        start = draw_start(task, 0, hyper.max_start_epoch, iteration)
        segment = segment_of(task, hyper, experts, iteration, start)
        rollout = engines["adjoint"].roll(segment, learned.synthetic())
        exact = rollout.gradient()
        if iteration % every == 0 or iteration == hyper.iterations - 1:
            other = engines["truncated"].roll(segment, learned.synthetic()).gradient()
            cosine = F.cosine_similarity(other.images.flatten(), exact.images.flatten(), dim=0)
            lines.append(
                f"| {iteration} | {rollout.loss:.3f} | {learned.syn_lr:.4f} | {float(cosine):.3f} "
                f"| {float(other.images.norm() / exact.images.norm()):.2f} | {other.syn_lr / exact.syn_lr:.2f} |"
            )
            print(lines[-1], file=sys.stderr, flush=True)
        learned.descend(exact, hyper)
        learned.iteration = iteration + 1
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    cost = commands.add_parser("cost")
    cost.add_argument("--threads", type=int, default=2)
    cost.add_argument("--repeats", type=int, default=5)
    cost.add_argument("--rounds", type=int, default=1)
    cost.add_argument("--only", choices=("memory", "time"))
    cost.add_argument("--device", default="cpu", help="of the times; memory is a CPU's")
    angle = commands.add_parser("angle")
    angle.add_argument("--dataset", default="digits")
    angle.add_argument("--ipc", type=int, default=1)
    angle.add_argument("--every", type=int, default=20)
    angle.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    hidden = commands.add_parser("child")
    hidden.add_argument("mode")
    for name in ("ipc", "steps", "repeats", "threads"):
        hidden.add_argument(name, type=int)
    hidden.add_argument("device")
    options = parser.parse_args()
    if options.command == "child":
        print(
            json.dumps(
                measure(options.mode, options.ipc, options.steps, options.repeats, options.threads, options.device)
            )
        )
        return
    if options.command == "angle":
        print(angle_table(options.dataset, options.ipc, options.every, options.set))
        return
    if options.only != "time":
        print(memory_table(options.threads), end="\n\n")
    if options.only != "memory":
        print(time_table(times(options.threads, options.repeats, options.rounds, options.device)), end="\n\n")
    print(
        f"Medians of {options.rounds} x {options.repeats} gradients, {options.threads} threads, torch {torch.__version__}, "
        f"{platform.machine()}, {datetime.now(UTC):%Y-%m-%d}. Memory: peak resident memory of one gradient above the "
        "process's own level before it (imports, data, network and libraries loaded)."
    )


if __name__ == "__main__":
    main()
