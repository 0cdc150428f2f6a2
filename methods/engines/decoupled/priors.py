"""CV-DD's prior performance: how well a student does that learned from one member alone."""

from collections.abc import Iterator

from torch import Tensor

from ddbench.distillation.task import Held, Task
from ddbench.synset.targets import targets_of
from ddbench.synset.teachers import Teacher
from ddbench.system.code import SYNTHESIS
from ddbench.training.cache import Cache
from ddbench.training.loop import predict, train

from .pipeline import DecoupledHyper, recovered, space_of
from .relabel import relabeled

CODE_VERSION = 1  # raise when a change of the engines that distill changes priors; a test pins their source


def held_accuracies(
    task: Task, hyper: DecoupledHyper, teachers: dict[str, Teacher], held: Held, ipc: int
) -> list[float]:
    """Accuracy in percent, on a held-out part of train, of a student of the set that each teacher alone gives.

    Cached by the stage "prior", one for each member; keyed by the stage seed, like the teachers.
    """
    return [100 * _accuracy(task, hyper, teacher, held, ipc) for teacher in teachers.values()]


def _accuracy(task: Task, hyper: DecoupledHyper, teacher: Teacher, held: Held, ipc: int) -> float:
    shared = {name: getattr(hyper, name) for name in DecoupledHyper.model_fields}  # no choice among members is in it
    key = {
        "teacher": teacher.hash,
        "hyper": DecoupledHyper(**shared).model_dump(mode="json"),
        "network": task.network,
        "ipc": ipc,
        "code": [CODE_VERSION, SYNTHESIS],
    }

    stage = task.open_cache("prior", key)

    def measure() -> tuple[dict[str, Tensor], dict[str, float]]:
        return {}, {"accuracy": _measure(task, hyper, teacher, held, ipc, stage)}

    return float(stage.product(measure).info["accuracy"])


def _measure(task: Task, hyper: DecoupledHyper, teacher: Teacher, held: Held, ipc: int, stage: Cache) -> float:
    """Distill, train a student, and test it; an interrupted run resumes at the stage's checkpoints."""
    only, training = {teacher.network: teacher}, stage.checkpoint("student")
    with task.apart(ipc, stage.checkpoint("product")):
        images, classes = recovered(task, hyper, only, [{teacher.network: 1.0}] * ipc)
        synset = relabeled(task, hyper, space_of(only), [(teacher, 1.0)], classes=classes, images=images)
        student = task.create_network("prior", teacher.network)
        views, labels = task.training_images(synset)
        recipe, labeller = hyper.student_of(task), task.labeller(synset)
        schedule = targets_of(synset)[0].schedule(synset)

        def loop(start: int, total: int) -> Iterator[int]:
            return task.loop(start, total, f"measuring the prior of {teacher.network}")

        train(
            student,
            views,
            labels,
            recipe,
            seed=task.stage_seed,
            labeller=labeller,
            schedule=schedule,
            loop=loop,
            checkpoint=training,
        )
    training.clear()
    logits = predict(student, held.images(space_of(only)))
    return float((logits.argmax(1) == held.labels).float().mean())
