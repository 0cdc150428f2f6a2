"""Image folders of 1,000, 10,000 and 100,000 files at 224 px: time to load them, and memory of what reads them.

    python benchmarks/streaming.py [--files 1000 10000 100000] [--steps 20] [--out benchmarks/streaming.md]

Makes a folder of ten classes for each number of files (a few dozen JPEG files, hard-linked under many names) in a temporary
place, with a cache of its own, and measures every part in a process of its own: wall-clock seconds, and peak memory above
the level after imports. The parts take `steps` steps each, so that only the number of files differs between rows.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

CLASSES, SOURCES, TESTS = 10, 40, 4
NETWORK, BATCH = "convnet-d3-w8-bn", 8
EPOCHS = 10  # rows of the dynamics that are recorded


def make_folder(root: Path, files: int) -> None:
    """An image folder of so many training images of 300 x 260 px."""
    import numpy as np
    from PIL import Image

    generator, sources = np.random.default_rng(0), root / "sources"
    sources.mkdir(parents=True)
    for number in range(SOURCES):
        coarse = Image.fromarray(generator.integers(0, 256, (20, 20, 3), dtype=np.uint8))
        coarse.resize((300, 260), Image.Resampling.BICUBIC).save(sources / f"{number}.jpg", quality=90)
    for split, count in (("train", files // CLASSES), ("val", TESTS)):
        for label in range(CLASSES):
            folder = root / split / f"class-{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                os.link(sources / f"{(label + number) % SOURCES}.jpg", folder / f"class-{label}_{number:06d}.jpg")


def load(name: str, steps: int) -> None:
    """Loading."""
    from ddbench.data import load_dataset

    load_dataset(name)


def squeeze(name: str, steps: int) -> None:
    """The first steps of squeezing a teacher."""
    from ddbench.methods.engines.squeeze import SqueezeFields

    from ddbench.student import train

    task = a_task(name)
    recipe = SqueezeFields(teacher_batch=BATCH).teacher_recipe(NETWORK).model_copy(update={"max_steps": steps})
    network = task.create_stage_network("squeeze", name=NETWORK)
    train(network, task.images(task.space("normalised")), task.dataset.labels, recipe, seed=0)


def dynamics(name: str, steps: int) -> None:
    """The first steps of a training whose dynamics are recorded, and one look at 200 images; rows of ten epochs."""
    from ddbench.methods.engines.dynamics import DynamicsFields, Recorder
    from ddbench.methods.engines.selection import shown_at_once

    from ddbench.checkpoints import Checkpoint

    task, left = a_task(name), {"training": steps, "recording": 1}
    recipe = DynamicsFields(score_epochs=EPOCHS, score_batch=BATCH).score_recipe(task)
    network = task.create_stage_network("dynamics", name=NETWORK)
    images, at_once = task.images(task.space("normalised")), shown_at_once(task.dataset.side)
    recorder = Recorder(network, images, task.dataset.labels, recipe, False, False, at_once)

    def some(start: int, total: int, label: str) -> Iterator[int]:
        word = label.partition(" ")[0]
        while start < total and left[word]:
            left[word] -= 1
            yield start
            start += 1

    recorder.train(0, Checkpoint(None), some)


def hard(name: str, steps: int) -> None:
    """The first steps of a student on the whole split by the recipe of hard-v1, and its test."""
    from ddbench.protocol import find_protocol

    student(name, steps, find_protocol("hard-v1"))


def soft(name: str, steps: int) -> None:
    """The first steps of the reference teacher of soft-v1, and those of a student on the whole split, with its test."""
    import torch

    from ddbench.data import load_dataset
    from ddbench.protocol import find_protocol
    from ddbench.teachers import reference_teacher

    dataset, protocol = load_dataset(name), find_protocol("soft-v1")
    recipe = protocol.reference(dataset)
    assert recipe is not None
    few = {"network": NETWORK, "batch": BATCH, "max_steps": steps}
    reference_teacher(recipe.model_copy(update=few), dataset, torch.device("cpu"))
    student(name, steps, protocol)


def student(name, steps, protocol) -> None:
    import torch

    from ddbench import networks
    from ddbench.data import load_dataset
    from ddbench.space import transform_for
    from ddbench.student import accuracy, train
    from ddbench.synset import SynSet
    from ddbench.views import training_images

    dataset, task = load_dataset(name), a_task(name)
    places = torch.arange(len(dataset.train))
    whole = SynSet.of(dataset, classes=dataset.train.labels, space=task.space("normalised"), indices=places)
    recipe = protocol.student(dataset, NETWORK).model_copy(update={"batch": BATCH, "max_steps": steps})
    images, classes = training_images(whole, dataset)
    network = networks.create(NETWORK, channels=3, side=dataset.side, classes=CLASSES)
    answer = networks.create(NETWORK, channels=3, side=dataset.side, classes=CLASSES, seed=1).eval()
    labeller = None if recipe.labels == "classes" else torch.no_grad()(lambda batch: answer(batch.images))
    train(network, images, classes, recipe, seed=0, labeller=labeller)
    accuracy(network, dataset.test, transform_for(whole.space, dataset), torch.device("cpu"))


def a_task(name):
    import torch

    from ddbench.budget import Budget
    from ddbench.data import load_dataset
    from ddbench.task import Task

    return Task(load_dataset(name), Budget(), NETWORK, 0, torch.device("cpu"))


PARTS: dict[str, Callable[[str, int], None]] = {
    "load": load, "load again": load, "squeeze": squeeze, "dynamics": dynamics, "hard-v1": hard, "soft-v1": soft,
}  # fmt: skip


def measure(part: str, root: str, steps: int) -> None:
    """Run a part in this process, and print seconds and bytes as JSON."""
    import numpy  # noqa: F401 - part of the level that memory is counted from
    import PIL.Image
    import torch
    from ddbench.methods.engines import dynamics, squeeze  # noqa: F401

    from ddbench import evaluation  # noqa: F401
    from ddbench.meter import Meter

    PIL.Image.preinit()
    torch.set_num_threads(1)
    with Meter(torch.device("cpu"), interval=0.002) as meter:
        PARTS[part](f"folder:{root}", steps)
    print(json.dumps({"seconds": meter.seconds, "bytes": meter.peak_memory}))


def measured(root: Path, steps: int) -> Iterator[tuple[str, float, float]]:
    """Part, seconds and MB of every part on one folder; the first load makes the index that the others read."""
    for part in PARTS:
        command = [sys.executable, __file__, "--part", part, "--folder", str(root), "--steps", str(steps)]
        environment = {**os.environ, "DDBENCH_CACHE": str(root / "cache"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout)
        yield part, found["seconds"], found["bytes"] / 1e6


def table(counts: list[int], steps: int) -> Iterator[str]:
    """The lines of the table, a row for each number of files."""
    from ddbench.data.listing import SETTLED

    heads = ["files", "first load, s", "next load, s", *(f"{part}, MB" for part in PARTS)]
    yield f"| {' | '.join(heads)} |"
    yield "| " + " | ".join(["---:"] * len(heads)) + " |"
    for count in counts:
        with tempfile.TemporaryDirectory() as temporary:
            root = Path(temporary) / "photos"
            make_folder(root, count)
            time.sleep(SETTLED + 0.1)  # so that the index is kept
            found = list(measured(root, steps))
        seconds = {part: each for part, each, _ in found}
        cells = [
            f"{count:,}",
            f"{seconds['load']:.2f}",
            f"{seconds['load again']:.2f}",
            *(f"{mb:.0f}" for *_, mb in found),
        ]
        yield f"| {' | '.join(cells)} |"


def write(out: Path, lines: list[str], steps: int) -> None:
    import torch

    text = f"""# Image folders at 224 px

Made by `python benchmarks/streaming.py --steps {steps}`, {time.strftime("%Y-%m-%d")}, torch {torch.__version__}, one thread
for networks, beside other work; every figure once, in a process of its own. Ten classes of JPEG files of 300 x 260 px,
hard links to {SOURCES} of them, just made: the system still knows their names and sizes. Network {NETWORK}, batches of {BATCH}.

MB: peak of resident memory above the level after imports, loading included.

{chr(10).join(lines)}

- load: `load_dataset`. The first reads every folder and asks every file for its size; the next one reads the class index
  from the cache, asks every folder whether it has changed, and hashes names and sizes.
- squeeze, hard-v1, soft-v1: {steps} steps on the whole split; soft-v1 {steps} of its reference teacher as well. Students are
  tested, on {TESTS * CLASSES} images.
- dynamics: {steps} steps, one look at 200 images, which is most of the memory, and rows of {EPOCHS} epochs.
"""
    out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        measure(arguments.part, arguments.folder, arguments.steps)
    else:
        rows = list(table(arguments.files, arguments.steps))
        print("\n".join(rows))
        write(arguments.out, rows, arguments.steps)
