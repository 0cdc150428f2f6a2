"""CV-DD's prior performance: how well a student does that learned from one member alone."""

from collections.abc import Iterator

from ddbench.student import CODE_VERSION, predict, train
from ddbench.task import Held, Task
from ddbench.teachers import Teacher

from .decoupled import DecoupledHyper, recovered, space_of
from .relabel import relabelled


def held_accuracies(
    task: Task, hyper: DecoupledHyper, teachers: dict[str, Teacher], held: Held, ipc: int
) -> list[float]:
    """Accuracy in percent, on a held-out part of train, of a student of the set that each teacher alone gives.

    Cached by the stage "prior", a member an entry; keyed by the stage seed, like the teachers.
    """
    key = {
        "teachers": {name: teacher.hash for name, teacher in teachers.items()},
        "hyper": hyper.model_dump(mode="json", exclude={"prior", "prior_ipc"}),
        "network": task.network,
        "ipc": ipc,
        "code": CODE_VERSION,
    }
    stage = task.open_stage("prior", key)
    found = []
    for name, teacher in teachers.items():
        product = stage.load(name)
        if product is None:
            with stage.locked():
                product = stage.load(name) or stage.save(
                    name, {}, {"accuracy": _measure(task, hyper, teacher, held, ipc)}
                )
        found.append(100 * float(product.info["accuracy"]))
    return found


def _measure(task: Task, hyper: DecoupledHyper, teacher: Teacher, held: Held, ipc: int) -> float:
    only = {teacher.network: teacher}
    with task.apart(ipc):
        images, classes = recovered(task, hyper, only, [{teacher.network: 1.0}] * ipc)
        synset = relabelled(task, hyper, space_of(only), [(teacher, 1.0)], classes=classes, images=images)
        student = task.create_network("prior", teacher.network)
        shown, labels = task.training_images(synset)
        recipe, labeller = hyper.student_of(task), task.labeller(synset)

        def loop(start: int, total: int) -> Iterator[int]:
            return task.loop(start, total, f"measuring the prior of {teacher.network}")

        train(student, shown, labels, recipe, seed=task.stage_seed, labeller=labeller, loop=loop)
    logits = predict(student, held.images(space_of(only)))
    return float((logits.argmax(1) == held.labels).float().mean())
