"""Image folders of 1,000, 10,000 and 100,000 files at 224 px: time to load them, and memory of what reads them.

    python benchmarks/streaming.py [--files 1000 10000 100000] [--steps 20] [--out benchmarks/streaming.md]

Makes a folder of ten classes for each number of files (a few dozen JPEG files, hard-linked under many names) in a temporary
place, with a cache of its own, and measures every part in a process of its own: CPU seconds, and peak memory above the
level after imports. The parts take `steps` steps each, so that only the number of files differs between rows.
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

import numpy as np
import torch
from ddbench.methods.engines.decoupled.squeeze import SqueezeFields
from ddbench.methods.engines.selection.coresets import shown_at_once
from ddbench.methods.engines.selection.dynamics import DynamicsFields, Recorder
from PIL import Image

from ddbench import networks
from ddbench.budget import Budget
from ddbench.data.listing import SETTLED
from ddbench.data.registry import load_dataset
from ddbench.data.spaces import transform_for
from ddbench.distillation.task import Task
from ddbench.evaluation.protocol import find_protocol
from ddbench.evaluation.reference_teacher import reference_teacher
from ddbench.synset.synset import SynSet
from ddbench.synset.views import training_images
from ddbench.training.batch_schedule import Labeller
from ddbench.training.checkpoints import Checkpoint
from ddbench.training.compute import Compute
from ddbench.training.loop import accuracy, train
from ddbench.training.memory import Meter
from ddbench.training.recipe import StudentRecipe

CLASSES, SOURCES, TESTS = 10, 40, 4
NETWORK, BATCH = "convnet-d3-w8-bn", 8
EPOCHS = 10  # rows of the dynamics that are recorded
CPU = torch.device("cpu")


def make_folder(root: Path, files: int) -> None:
    """An image folder of so many training images of 300 x 260 px."""
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
    load_dataset(name)


def squeeze(name: str, steps: int) -> None:
    """The first steps of squeezing a teacher."""
    task = task_on(name)
    network = task.create_stage_network("squeeze", name=NETWORK)
    recipe = first_steps(SqueezeFields().teacher_recipe(NETWORK), steps)
    train(network, task.images(task.space("normalised")), task.dataset.labels, recipe, seed=0)


def dynamics(name: str, steps: int) -> None:
    """The first steps of a training whose dynamics are recorded, and one look at 200 images; rows of ten epochs."""
    task, left = task_on(name), {"training": steps, "recording": 1}
    recipe = DynamicsFields(score_epochs=EPOCHS, score_batch=BATCH).score_recipe(task)
    network, images = task.create_stage_network("dynamics", name=NETWORK), task.images(task.space("normalised"))
    at_once = shown_at_once(task.dataset.side)
    recorder = Recorder(network, images, task.dataset.labels, recipe, False, False, at_once)

    def some(start: int, total: int, label: str) -> Iterator[int]:
        word = label.partition(" ")[0]
        while start < total and left[word]:
            left[word] -= 1
            yield start
            start += 1

    recorder.train(0, Checkpoint(None), some)


def hard(name: str, steps: int) -> None:
    """The first steps of a student of hard-v1 on the whole split, and its test."""
    student(name, first_steps(find_protocol("hard-v1").student(load_dataset(name), NETWORK), steps))


def soft(name: str, steps: int) -> None:
    """The first steps of the reference teacher of soft-v1; those of a student on the whole split, and its test."""
    dataset, protocol = load_dataset(name), find_protocol("soft-v1")
    recipe = protocol.reference(dataset)
    assert recipe is not None
    recipe = first_steps(recipe, steps).model_copy(update={"network": NETWORK})
    teacher = reference_teacher(recipe, dataset, CPU).module(CPU)
    label = torch.no_grad()(lambda batch: teacher(batch.images))
    student(name, first_steps(protocol.student(dataset, NETWORK), steps), label)


def student(name: str, recipe: StudentRecipe, labeller: Labeller | None = None) -> None:
    """A student on the set `whole`, trained and tested."""
    dataset, space = load_dataset(name), task_on(name).space("normalised")
    places = torch.arange(len(dataset.train))
    whole = SynSet.of(dataset, classes=dataset.train.labels, space=space, indices=places)
    images, classes = training_images(whole, dataset)
    network = networks.create(NETWORK, channels=3, side=dataset.side, classes=CLASSES)
    train(network, images, classes, recipe, seed=0, labeller=labeller)
    accuracy(network, dataset.test, transform_for(space, dataset), CPU)


def first_steps(recipe: StudentRecipe, steps: int) -> StudentRecipe:
    """A recipe in small batches that ends early."""
    return recipe.model_copy(update={"batch": BATCH, "max_steps": steps})


def task_on(name: str) -> Task:
    """A task on a data set."""
    return Task(load_dataset(name), Budget(), NETWORK, 0, CPU)


PARTS: dict[str, Callable[[str, int], None]] = {
    "load": load, "load again": load, "squeeze": squeeze, "dynamics": dynamics, "hard-v1": hard, "soft-v1": soft,
}  # fmt: skip


def measure(part: str, root: str, steps: int) -> None:
    """Run a part in this process, and print CPU seconds and bytes as JSON."""
    Image.preinit()
    Compute().apply()  # one thread, and freed memory kept, as in every job
    started = time.process_time()
    with Meter(CPU, interval=0.002) as meter:
        PARTS[part](f"folder:{root}", steps)
    print(json.dumps({"seconds": time.process_time() - started, "bytes": meter.peak_memory}))


def measured(root: Path, steps: int) -> dict[str, dict[str, float]]:
    """CPU seconds and bytes of every part on one folder; the first load makes the index that the others read."""
    found = {}
    for part in PARTS:
        command = [sys.executable, __file__, "--part", part, "--folder", str(root), "--steps", str(steps)]
        environment = {**os.environ, "DDBENCH_CACHE": str(root / "cache"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        found[part] = json.loads(done.stdout)
    return found


def table(counts: list[int], steps: int) -> Iterator[str]:
    """The lines of the table, a row for each number of files."""
    heads = ["files", "first load, CPU s", "next load, CPU s", *(f"{part}, MB" for part in PARTS)]
    yield f"| {' | '.join(heads)} |"
    yield f"| {' | '.join(['---:'] * len(heads))} |"
    for count in counts:
        with tempfile.TemporaryDirectory() as temporary:
            root = Path(temporary) / "photos"
            make_folder(root, count)
            time.sleep(SETTLED + 0.1)  # so that the index is kept
            found = measured(root, steps)
        seconds = [f"{found[part]['seconds']:.2f}" for part in ("load", "load again")]
        cells = [f"{count:,}", *seconds, *(f"{each['bytes'] / 1e6:.0f}" for each in found.values())]
        yield f"| {' | '.join(cells)} |"


def page(lines: list[str], steps: int) -> str:
    """The table and what it is of."""
    text = "\n".join(lines)
    return f"""# Image folders at 224 px

Made by `python benchmarks/streaming.py --steps {steps}`, {time.strftime("%Y-%m-%d")}, torch {torch.__version__}, one thread for
networks, beside other work; every figure once, in a process of its own. Ten classes of JPEG files of 300 x 260 px, hard
links to {SOURCES} of them, just made: the system still knows their names and sizes. Network {NETWORK}, batches of {BATCH}.
MB: peak of resident memory above the level after imports, loading included.

{text}

- load: `load_dataset`. The first reads every folder and asks every file for its size; the next one reads the class index
  from the cache, asks every folder whether it has changed, and hashes names and sizes. At the peak of a load a file takes
  some 110 to 150 bytes, 60 of which stay.
- squeeze, hard-v1, soft-v1: {steps} steps on the whole split; soft-v1: {steps} of its reference teacher before. Students are
  tested on {TESTS * CLASSES} images at once.
- dynamics: {steps} steps, one look at 200 images at once, which is the peak, and rows of {EPOCHS} epochs.

What grows with the number of images, by definition:

- training dynamics: 28 bytes for each image and epoch, and with the movement of the probabilities (`tdds`) 4 more for each
  epoch and 4 for each class; scores take about as much again while they are computed;
- herding, k-centres, graph cut and DQ's bins: the features of a class at a time, or of the split where `balance` is false;
  of pixels (the default of `herding` and `kcenter`) 600 kB for each image of a class at 224 px;
- sets that hold images, not indices: the set itself, in float32 while students train on it.
"""


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
        arguments.out.write_text(page(rows, arguments.steps), encoding="utf-8")
