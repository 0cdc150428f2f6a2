"""The published settings of the methods that keep real images, against a table typed anew from the papers' codes."""

import pytest

from ddbench.budget import Budget
from ddbench.distillation.method import find_method
from ddbench.distillation.recipes import entries_for, published

CCS_STUDENT = {"student_optimizer": "sgd", "student_lr": 0.1, "student_weight_decay": 5e-4, "nesterov": True, "student_batch": 256, "student_steps": 40_000}  # fmt: skip
STANDARD_HARD = {"student_optimizer": "adamw", "student_lr": 1e-3, "student_weight_decay": 0.01, "student_batch": 128, "student_epochs": 300, "student_crop": "resized", "mix": "none"}  # fmt: skip
WANTED = [
    ("prune", "ccs", "cifar10", Budget(fraction=0.1), {"score": "aum-prob", "keep": "ccs", "mis_ratio": 0.3, "strata": 50, "score_epochs": 200, "score_batch": 256, "score_last": None, "balance": False, **CCS_STUDENT}),
    ("prune", "ccs", "imagenet-1k", Budget(fraction=0.1), {"mis_ratio": 0.3, "score_epochs": 60, "score_weight_decay": 1e-4, "student_steps": 300_000, "student_weight_decay": 1e-4, "student_batch": 256}),
    ("prune", "ccs", "imagenet-1k", Budget(fraction=0.2), {"mis_ratio": 0.2}),
    ("prune", "el2n", "cifar10", Budget(fraction=0.3), {"score": "el2n", "score_last": 10, "keep": "hard", **CCS_STUDENT}),
    ("prune", "forgetting", "cifar100", Budget(fraction=0.5), {"score": "forgetting", "keep": "hard", **CCS_STUDENT}),
    ("prune", "dual", "cifar10", Budget(fraction=0.1), {"score": "dual", "keep": "beta", "beta_c": 4.0, "window": 10, "score_last": 30, "score_epochs": 200, "score_batch": 128, "student_batch": 32, "student_epochs": 200, "nesterov": True}),
    ("prune", "dual", "cifar100", Budget(fraction=0.2), {"student_batch": 64, "beta_c": 4.0}),
    ("prune", "dual", "cifar10", Budget(fraction=0.5), {"student_batch": 128}),
    ("prune", "dual", "imagenet-1k", Budget(fraction=0.1), {"beta_c": 11.0, "window": 10, "score_epochs": 60}),
    ("prune", "tdds", "cifar10", Budget(fraction=0.7), {"score_last": 90, "window": 10, "decay": 0.9, "score_batch": 100, "student_batch": 128}),
    ("prune", "tdds", "cifar100", Budget(fraction=0.1), {"score_last": 10, "window": 5}),
    ("prune", "rethinking-el2n", "imagenet-1k", Budget(50), {"score": "el2n", "keep": "easy", "balance": True, **STANDARD_HARD}),
    ("pca", "paper", "imagenet-1k", Budget(10), {"tiles": 2, **STANDARD_HARD}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "name", "dataset", "budget", "wanted"), WANTED)
def test_a_published_setting_is_as_its_source_says(method, name, dataset, budget, wanted):
    found = find_method(method)
    (entry,) = [e for e in entries_for(published(found), dataset, budget) if e.name == name]
    hyper = found.hyper.model_validate(entry.hyper).model_dump()
    assert {key: hyper[key] for key in wanted} == wanted
    assert "arXiv" in entry.source


def test_windows_fit_the_epochs_that_every_recipe_reads():
    from ddbench.methods.engines.selection.pruning import SCORES

    for method in ("prune", "prune-kd"):
        for entry in published(find_method(method)).recipe:
            fields = find_method(method).hyper.model_validate(entry.hyper)
            if fields.score in SCORES:
                SCORES[fields.score].require_epochs(fields)


def test_recipes_that_compare_scores_share_one_training():
    """The reduced ones on fashion-mnist, and pca's on ImageNet with the pruning that it begins with."""
    from ddbench.methods.engines.selection.dynamics import DynamicsFields

    def training(method, dataset, budget, names=None):
        kinds = set()
        for entry in entries_for(published(find_method(method)), dataset, budget):
            if names is None or entry.name in names:
                hyper = find_method(method).hyper.model_validate(entry.hyper)
                made = {k: getattr(hyper, k) for k in DynamicsFields.model_fields if k.startswith("score_")}
                kinds.add((entry.network, *(made[k] for k in sorted(made) if k not in ("score_first", "score_last"))))
        return kinds

    assert len(training("prune", "fashion-mnist", Budget(fraction=0.1))) == 1
    both = training("pca", "imagenet-1k", Budget(10)) | training(
        "prune", "imagenet-1k", Budget(10), ("rethinking-el2n",)
    )
    assert len(both) == 1
    tiny = training("pca", "tiny-imagenet-20", Budget(10)) | training("prune", "tiny-imagenet-20", Budget(10))
    assert len(tiny) == 1
