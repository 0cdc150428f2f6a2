"""A package as anyone could install it: a method that can fail in every way, two small protocols, a loss."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field

from ddbench.distillation.method import Hyper, Method
from ddbench.distillation.task import Task
from ddbench.errors import CannotWrite, JobFailed, NotDefined
from ddbench.evaluation.protocol import Protocol, Tier
from ddbench.synset.synset import SynSet, Targets
from ddbench.training.cache import Cache
from ddbench.training.recipe import StudentRecipe

if TYPE_CHECKING:
    from ddbench.jobs.sweep import Sweep

RECIPE: dict[str, Any] = {
    "network": "convnet-d1-w8",
    "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4},
    "schedule": {"name": "cosine"},
    "loss": {"name": "ce"},
    "labels": "classes",
    "augmentations": [{"name": "pad-crop", "pad": 1}],
    "epochs": 12,
    "max_steps": 12,
    "batch": 16,
}

TOY_HARD = Protocol(name="toy-hard-v1", version=1, summary="a dozen steps", tiers=(Tier(None, RECIPE),))
TOY_SOFT = Protocol(
    name="toy-soft-v1",
    version=1,
    summary="a dozen steps on a teacher's labels",
    space="teacher",
    tiers=(Tier(None, {**RECIPE, "loss": {"name": "kl", "temperature": 4.0}, "labels": "teacher"}),),
    teacher=(Tier(None, RECIPE),),
)


class ToyHyper(Hyper):
    """Hyper-parameters of `toy`."""

    steps: int = Field(4, ge=1, description="steps")
    lr: float = Field(0.1, gt=0, lt=10, description="step size")
    flag: bool = Field(False, description="nothing")
    sizes: tuple[int, ...] = Field((1, 2), description="nothing")
    space: Literal["pixel", "normalised", "zca"] = "normalised"
    ships: Literal["nothing", "classes", "soft"] = "nothing"
    fail: Literal["no", "diverge", "bug", "die", "marked", "undefined"] = "no"
    nap: float = Field(0.0, ge=0, description="seconds, of a step")
    held: bool = Field(False, description="whether a step waits for as long as the mark is there")


def note(word: str) -> None:
    """Append a line to the file that the tests count calls in; tell who writes."""
    if path := os.environ.get("DDBENCH_TOY_LOG"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{word} {os.getpid()}\n")


def marked() -> bool:
    """Whether the file that makes the toy fail, or wait, is there."""
    return Path(os.environ.get("DDBENCH_TOY_MARK", "/nowhere")).exists()


def distill(task: Task, hyper: ToyHyper) -> SynSet:
    """Real images that drift towards the mean image with momentum and noise, a checkpoint after every step."""
    note("distill")
    if hyper.fail == "undefined":
        raise NotDefined(f"the toy has no room at IPC {task.ipc}")
    task._checkpoint.interval = 0.0
    space = task.space(hyper.space)
    real, _ = task.tensors(space)

    def mean_image() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        note("stage")
        return {"mean": real.mean(0)}, {"images": len(real)}

    mean = task.cached("toy-mean", {"space": space.to_json()}, mean_image).tensors["mean"]
    chosen = [
        pool[torch.randperm(len(pool), generator=task.rng("real", c))[: task.ipc]]
        for c, pool in enumerate(task.class_indices())
    ]
    start = real[torch.cat(chosen)]
    state = task.resume() or {"step": 0, "images": start, "buffers": {0: [torch.zeros_like(start)]}}
    images, velocity = state["images"], state["buffers"][0][0]
    classes = task.dataset.labels[torch.cat(chosen)]

    def made() -> SynSet:
        note("set")
        return task.synset(space=space, images=images, classes=classes, **shipped(hyper, classes))

    for step in task.loop(state["step"], hyper.steps, "drifting"):
        task.snapshot(step, hyper.steps, made)
        note("step")
        noise = torch.randn(images.shape, generator=task.rng("noise", step))
        velocity = 0.5 * velocity + images - mean + 0.1 * noise
        images = images - hyper.lr * velocity
        time.sleep(hyper.nap)
        while hyper.held and marked():
            time.sleep(0.05)
        task.checkpoint(lambda at=step + 1, x=images, v=velocity: {"step": at, "images": x, "buffers": {0: [v]}})
        if step >= hyper.steps // 2:
            break_down(hyper)
    return made()


def break_down(hyper: ToyHyper) -> None:
    """Fail as asked for."""
    if hyper.fail == "diverge":
        raise JobFailed("the toy diverged")
    if hyper.fail == "bug" or (hyper.fail == "marked" and marked()):
        raise RuntimeError("a bug\nof two lines")
    if hyper.fail == "die":
        os._exit(9)


def shipped(hyper: ToyHyper, classes: torch.Tensor) -> dict[str, Any]:
    """The student recipe, and labels if it reads them."""
    if hyper.ships == "nothing":
        return {}
    if hyper.ships == "classes":
        return {"student_recipe": StudentRecipe.model_validate(RECIPE)}
    recipe = StudentRecipe.model_validate({**RECIPE, "loss": {"name": "soft-ce"}, "labels": "targets"})
    labels = 5 * torch.nn.functional.one_hot(classes, 10).float()
    return {"student_recipe": recipe, "targets": Targets("soft", {"form": "logits"}, {"labels": labels})}


def squares(weight: float = 1.0) -> Any:
    """A loss from outside: squared distance of the logits to the one-hot classes."""

    def loss(student: torch.Tensor, labels: Any) -> torch.Tensor:
        wanted = torch.nn.functional.one_hot(labels.classes, student.shape[1]).float()
        return weight * (student - wanted).square().sum(1).mean()

    return loss


def double(number: int, *_: Any) -> int:
    """Work for the pool."""
    return 2 * number


def slow_double(number: int, *_: Any) -> int:
    """Work that takes its time."""
    time.sleep(1.0)
    return 2 * number


def die(number: int, *_: Any) -> None:
    """Work that kills its worker."""
    time.sleep(0.2)
    os._exit(3)


def surroundings(name: str, *_: Any) -> tuple[str | None, int]:
    """What a worker sees of the environment, and who it is."""
    return os.environ.get(name), os.getpid()


def meet(job: Any, *_: Any) -> str | None:
    """Work that waits for another like it to run at the same time; gives the GPUs that it may use."""
    note("meet")
    while Path(os.environ["DDBENCH_TOY_LOG"]).read_text(encoding="utf-8").count("meet") < 2:
        time.sleep(0.05)
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def full_disk(*_: Any) -> None:
    """Work that cannot be written down."""
    raise CannotWrite("cannot write x: No space left on device")


def build_apart(environment: dict[str, str]) -> None:
    """Ask for a product that takes its time, in a process of its own."""
    os.environ.update(environment)

    def build() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        note("stage")
        time.sleep(0.5)
        return {"x": torch.zeros(2)}, {}

    note(Cache("slow", {}).product(build).hash)


def a_grid(overrides: list[str]) -> "Sweep":
    """Two protocols, two synthesis seeds and two students each."""
    from ddbench.budget import Budget
    from ddbench.jobs.job import DataName
    from ddbench.jobs.sweep import Sweep

    return Sweep(
        methods=["toy"],
        datasets=[DataName("digits")],
        budgets=[Budget(ipc=1)],
        protocols=["toy-hard-v1", "toy-soft-v1"],
        seeds=(0, 1),
        synthesis_seeds=(0, 1),
        recipe="generic",
        overrides=overrides,
    )


def sweep_apart(environment: dict[str, str], overrides: list[str], workers: int = 1) -> None:
    """A whole sweep, for a process of its own."""
    os.environ.update(environment)
    import ddbench

    raise SystemExit(ddbench.sweep(a_grid(overrides), workers=workers).exit_code())


METHOD = Method(name="toy", hyper=ToyHyper, distill=distill, title="Toy", snapshots=True)
