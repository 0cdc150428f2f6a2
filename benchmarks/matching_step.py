"""One step of DM and DataDAM: ours against a straightforward loop, one class at a time with one graph for all.

    python benchmarks/matching_step.py [--rounds 3] [--steps 3] [--threads 1] [--write]

CIFAR shape: 10 classes, IPC 10, ConvNet-D3 of width 128, instance norm; 256 (DM) and 64 (DataDAM) real images a
class. Every measurement is a process of its own, the variants in turn; a process warms up for one step, then times
`steps` more. Prints a Markdown table; with --write it also replaces benchmarks/matching_step.md.

The loop draws, augments and matches the same images in the same networks; the test of `engines.matching` shows that
both give the same loss and gradient, and so does the last column here.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
from children import child
from ddbench.methods.engines.matching.attention import AttentionMaps
from ddbench.methods.engines.matching.feature_matching import Pairs, embeddings, matching_gradient
from torch import Tensor, nn

from ddbench.augment import DSA
from ddbench.networks import create
from ddbench.randomness import rng
from ddbench.training.memory import Meter

CLASSES, IPC, POOL = 10, 10, 500
BATCH = {"dm": 256, "datadam": 64}
POWER, WEIGHTS = 4, (100.0, 1.0)


def setup(method: str) -> tuple[Pairs, Tensor]:
    real = torch.randn(CLASSES * POOL, 3, 32, 32, generator=rng(0, "real images"))
    pools = list(torch.arange(CLASSES * POOL).split(POOL))
    dsa = DSA(align_corners=False, siamese=True, crop_rounding="round")
    synthetic = torch.randn(CLASSES * IPC, 3, 32, 32, generator=rng(0, "synthetic images"))
    return Pairs(lambda places: real[places], pools, BATCH[method], dsa, lambda *key: rng(0, *key)), synthetic


def network_of(step: int) -> nn.Module:
    return create("convnet-d3", channels=3, side=32, classes=CLASSES, key=("network", step)).requires_grad_(False)


def ours(method: str, pairs: Pairs, images: Tensor, step: int) -> tuple[float, Tensor]:
    network = network_of(step)
    if method == "dm":
        return matching_gradient(network, embeddings(network), (1.0,), images, pairs, step)
    with AttentionMaps(network, POWER) as features:
        return matching_gradient(network, features, WEIGHTS, images, pairs, step)


def loop(method: str, pairs: Pairs, images: Tensor, step: int) -> tuple[float, Tensor]:
    """By the book: hooks keep whole feature maps, the loss of all classes is one graph."""
    network, kept = network_of(step), []
    if method == "datadam":
        for module in network.modules():
            if isinstance(module, nn.ReLU):
                module.register_forward_hook(lambda module, inputs, output: kept.append(output))

    def features(batch: Tensor) -> list[Tensor]:
        kept.clear()
        embedding = network.embed(batch)
        maps = [feature.abs().pow(POWER).sum(1).flatten(1) for feature in kept[:-1]]
        return [*(a / a.norm(dim=1, keepdim=True) for a in maps), embedding]

    leaf = images.clone().requires_grad_()
    total = torch.zeros(())
    for label, synthetic in enumerate(leaf.split(IPC)):
        real = features(pairs.real(step, label))
        fake = features(pairs.augment(step, label, synthetic))
        weights = [WEIGHTS[0]] * (len(real) - 1) + [WEIGHTS[1]]
        for weight, a, b in zip(weights, real, fake, strict=True):
            total = total + weight * (a.mean(0) - b.mean(0)).square().sum()
    (gradient,) = torch.autograd.grad(total, leaf)
    return float(total.detach()), gradient


VARIANTS = {"loop": loop, "ours": ours}


def measure(method: str, variant: str, steps: int, threads: int) -> dict[str, object]:
    """Run in a process of its own: seconds of each step, peak bytes above the baseline, loss and gradient norm."""
    torch.set_num_threads(threads)
    pairs, images = setup(method)
    network_of(0)
    seconds = []
    with Meter(torch.device("cpu"), interval=0.002) as meter:
        for step in range(steps + 1):
            started = time.perf_counter()
            loss, gradient = VARIANTS[variant](method, pairs, images, step)
            seconds.append(time.perf_counter() - started)
    return {"seconds": seconds[1:], "peak": meter.peak_memory, "loss": loss, "norm": float(gradient.norm())}


def apart(method: str, variant: str, steps: int, threads: int) -> dict[str, object]:
    """Run a variant in a fresh process."""
    words = ["--child", method, variant, "--steps", steps, "--threads", threads]
    return child(__file__, *words, threads=threads)


def table(rounds: int, steps: int, threads: int) -> str:
    lines = [
        "| method | loop, s / step | ours, s / step | ours / loop | loop, MB | ours, MB | ours / loop | loss differs by |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for method in BATCH:
        found: dict[str, list[dict]] = {name: [] for name in VARIANTS}
        for index in range(rounds):
            for name in list(VARIANTS) if index % 2 == 0 else list(VARIANTS)[::-1]:
                found[name].append(apart(method, name, steps, threads))
                print(f"{method} {name} round {index + 1} of {rounds}", file=sys.stderr)
        time_of = {n: statistics.median(s for run in runs for s in run["seconds"]) for n, runs in found.items()}
        peak_of = {n: statistics.median(run["peak"] for run in runs) / 1e6 for n, runs in found.items()}
        off = abs(found["ours"][0]["loss"] / found["loop"][0]["loss"] - 1)
        lines.append(
            f"| {method} | {time_of['loop']:.3f} | {time_of['ours']:.3f} | {time_of['ours'] / time_of['loop']:.2f} "
            f"| {peak_of['loop']:.0f} | {peak_of['ours']:.0f} | {peak_of['ours'] / peak_of['loop']:.2f} | {off:.0e} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--child", nargs=2, metavar=("METHOD", "VARIANT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(*options.child, options.steps, options.threads)))
        return
    shown = table(options.rounds, options.steps, options.threads)
    print(shown)
    if options.write:
        about = (
            f"Medians over {options.rounds} processes x {options.steps} steps, {options.threads} threads, "
            f"torch {torch.__version__}, {platform.machine()}, {datetime.now(UTC):%Y-%m-%d}. "
            "Memory: peak resident memory above the process's own baseline (imports, data and one network loaded)."
        )
        command = "`python benchmarks/matching_step.py --write`"
        text = f"# One step of DM and DataDAM\n\n{shown}\n\n{about}\n\nMade by {command}.\n"
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
