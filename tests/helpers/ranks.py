"""What ranks run in tests: top-level functions, which another process can import."""

import atexit
import os
import signal

import torch
from torch.nn import functional as F

from ddbench import networks
from ddbench.training.loop import train
from ddbench.training.recipe import StudentRecipe


def training(name, batch, bn_batch=None, mix=None, streamed=False):
    """Losses of every step, the weights at the end, and which rows of the images were read."""
    torch.set_num_threads(1)
    sgd = {"name": "sgd", "lr": 0.05, "momentum": 0.9}
    dsa = {"name": "dsa", "ops": ["color", "crop", "cutout", "scale", "rotate"]}
    fields = {"network": name, "optimizer": sgd, "augmentations": [dsa], "mix": mix, "epochs": 6, "batch": batch}
    recipe = StudentRecipe.model_validate({**fields, "bn_batch": bn_batch})
    student = networks.create(name, channels=1, side=8, classes=10, seed=3).double()
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(30, 1, 8, 8, generator=generator).double()
    classes, losses = torch.arange(30) % 10, []
    images = Read(pictures) if streamed else pictures

    def observe(shown, logits):
        losses.append(float(F.cross_entropy(logits, classes[shown.index])))

    done = train(student, images, classes, recipe, seed=5, observe=observe)
    read = images.count if streamed else 0
    return losses, dict(student.state_dict()), done.final_loss, read


class Read:
    """Images that are read as they are shown, and counted."""

    def __init__(self, pictures):
        self.pictures, self.count = pictures, 0

    @property
    def device(self):
        return self.pictures.device

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, places):
        self.count += len(places)
        return self.pictures[places]


def trainings(*plans):
    """Several of them, one after another, in one launch."""
    return [training(*plan) for plan in plans]


def refusal():
    """What a batch of one image says to two ranks."""
    try:
        training("convnet-d1-w8", 1)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def teacher_of_digits():
    """The hash of a teacher with batch norms, as this rank has it, from every rank."""
    from ddbench.data.registry import load_dataset
    from ddbench.evaluation.reference_teacher import reference_teacher
    from ddbench.training.ranks import current

    torch.set_num_threads(1)
    adam = {"name": "adam", "lr": 0.01}
    recipe = {"network": "convnet-d1-w8-bn", "optimizer": adam, "epochs": 1, "max_steps": 7, "batch": 32}
    found = reference_teacher(StudentRecipe.model_validate(recipe), load_dataset("digits"), torch.device("cpu"))
    number = torch.tensor(int(found.hash[:12], 16))
    together = current()
    return found.hash, [int(number)] if together is None else together.fabric.all_gather(number).tolist()


def much(size):
    """A result of so many bytes."""
    return b"x" * size


def aborts_at_its_end():
    """A result, of a process that would be aborted by what comes after it."""
    atexit.register(os.abort)
    return "done"


def stops(error):
    """Raise it on every rank."""
    raise error


def dies_once_job(job, reporter):
    """A job whose last rank is killed the first time."""
    from ddbench.training.ranks import current

    together = current()
    if together.rank == 1 and not job.mark.exists():
        job.mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    together.fabric.barrier()
    return "done"
