"""The published recipes of the squeeze, recover, relabel methods: the papers' cells, and a table of their settings.

The tables below were typed from the fact sheet, not from the recipe files, cell by cell: they agree or one is wrong.
"""

from dataclasses import replace

import pytest

from ddbench import networks
from ddbench.budget import Budget
from ddbench.data.registry import describe, load_dataset
from ddbench.distillation.method import find_method
from ddbench.distillation.recipes import RecipeEntry, published, resolve

C10, C100, TINY, NETTE, IN1K, IN21K = (
    "cifar10",
    "cifar100",
    "tiny-imagenet",
    "imagenette",
    "imagenet-1k",
    "imagenet-21k-p",
)
FIVE = (C10, C100, TINY, NETTE, IN1K)
VOTING = ("sre2l++", "cvdd")
METHODS = ("sre2l", "cda", *VOTING, "infer", "rded")
by_method = pytest.mark.parametrize("method", METHODS)

# data set -> IPC of the default recipes
CELLS = {
    "sre2l": {C10: (1, 10, 50), C100: (1, 10, 50), TINY: (50, 100), IN1K: (10, 50, 100, 200), IN21K: (10, 20)},
    "cda": {TINY: (50, 100), IN1K: (50, 100, 200), IN21K: (10, 20)},
    "sre2l++": dict.fromkeys(FIVE, (1, 10, 50)),
    "cvdd": dict.fromkeys(FIVE, (1, 10, 50)),
    "infer": {C10: (1, 10, 50), C100: (1, 10, 50, 100), TINY: (1, 10, 50), IN1K: (1, 10, 50)},
    "rded": dict.fromkeys(FIVE, (1, 10, 50)),
}
# every recipe that is not a default: what it changes of the default of its cell
OTHERS = {
    ("sre2l", "appendix", C100, 50): {"student_epochs": 800},
    ("sre2l", "released", TINY, 50): {"iterations": 1000},
    **{
        (m, "1000-epochs", C10, ipc): {"student_lr": 5e-4, "student_epochs": 1000}
        for m in VOTING
        for ipc in (1, 10, 50)
    },
    **{
        ("infer", "dynamic", name, ipc): {"label_kind": "dynamic", "student_epochs": 100 if name == IN1K else 80}
        for name, ipcs in CELLS["infer"].items()
        for ipc in ipcs
    },
}

# optimizer, lr, weight decay, epochs, batch, stretch of the cosine, warm-up, crop
SGD_CIFAR = ("sgd", 0.1, 5e-4, 200, 128, 1, 0, "pad")
SGD_TINY = ("sgd", 0.2, 1e-4, 50, 256, 1, 5, "resized")
VOTERS = {
    C10: ("adam", 0.001, 1e-4, 200, 512, 1, 0, "pad"),
    C100: ("adam", 0.001, 1e-4, 200, 512, 1, 0, "pad"),
    TINY: ("sgd", 0.01, 1e-4, 50, 128, 1, 0, "pad"),
    NETTE: ("sgd", 0.01, 1e-4, 300, 64, 100 / 300, 0, "resized"),
}
SQUEEZE = {
    "sre2l": {C10: SGD_CIFAR, C100: SGD_CIFAR, TINY: SGD_TINY},
    "cda": {TINY: SGD_TINY},
    "sre2l++": VOTERS,
    "cvdd": VOTERS,
    "infer": {C10: SGD_CIFAR, C100: SGD_CIFAR, TINY: SGD_CIFAR},
    "rded": {C10: SGD_CIFAR, C100: SGD_CIFAR, TINY: SGD_TINY, NETTE: VOTERS[NETTE]},
}

# lr, iterations, r_bn, batch, roll, crop and flip, curriculum; the same at every IPC
VOTED = {
    C10: (0.25, 4000, 0.01, 10, (0, 4), True, "none"),
    C100: (0.25, 4000, 0.01, 100, (0, 4), True, "none"),
    TINY: (0.25, 4000, 0.01, 100, (0, 4), True, "none"),
    NETTE: (0.25, 4000, 0.01, 10, (0, 32), True, "none"),
    IN1K: (0.25, 4000, 0.01, 100, (0, 32), True, "none"),
}
RECOVER = {
    "sre2l": {
        C10: (0.25, 1000, 0.01, 10, (0, 4), False, "none"),
        C100: (0.25, 1000, 0.01, 100, (0, 4), False, "none"),
        TINY: (0.1, 4000, 1, 100, (-4, 4), True, "none"),
        IN1K: (0.25, 4000, 0.01, 100, (0, 32), True, "none"),
        IN21K: (0.05, 2000, 0.25, 100, (0, 32), True, "none"),  # ours: not stated, CDA's without its curriculum
    },
    "cda": {
        TINY: (0.4, 4000, 0.05, 100, (0, 4), True, "cosine"),
        IN1K: (0.25, 4000, 0.01, 100, (0, 32), True, "cosine"),
        IN21K: (0.05, 2000, 0.25, 100, (0, 32), True, "cosine"),
    },
    "sre2l++": VOTED,
    "cvdd": VOTED,
    "infer": {  # a batch is a slot, which is all classes, whatever `block` says
        C10: (0.25, 1000, 1, None, (0, 4), False, "none"),
        C100: (0.25, 1000, 1, None, (0, 4), False, "none"),
        TINY: (0.25, 1000, 1, None, (0, 4), False, "none"),  # ours: CIFAR-100's
        IN1K: (0.25, 2000, 0.01, None, (0, 32), True, "none"),
    },
}
INIT = {
    "sre2l": ("noise", "easy"),
    "cda": ("noise", "easy"),
    "sre2l++": ("patches", "medium"),
    "cvdd": ("patches", "medium"),
}

# optimizer, lr, weight decay, epochs, batch, batch of the norms, T, T^2, mix, its alpha, eta, warm-up
SGD_STUDENT = ("sgd", 0.2, 1e-4, 100, 256, None, 20, True, "none", None, 1, 5)
IN21K_STUDENT = ("adamw", 0.002, 0.01, 300, 32, None, 20, False, "cutmix", 1, 1, 0)
INFER_STUDENT = ("adamw", 0.001, 0.01, 400, 64, None, 30, False, "mixup", 0.8, 1, 0)
STUDENT = {
    "sre2l": {
        C10: ("adamw", 0.001, 0.01, 400, 256, None, 30, False, "mixup", 0.8, 1, 0),
        C100: ("adamw", 0.001, 0.01, 400, 128, None, 30, False, "mixup", 0.8, 1, 0),
        TINY: SGD_STUDENT,
        IN1K: ("adamw", 0.001, 0.01, 300, 1024, 512, 20, False, "cutmix", 1, 1, 0),
        IN21K: IN21K_STUDENT,
    },
    "cda": {
        TINY: (*SGD_STUDENT[:4], 64, *SGD_STUDENT[5:]),
        IN1K: ("adamw", 0.001, 0.01, 300, 128, None, 20, False, "cutmix", 1, 1, 0),
        IN21K: IN21K_STUDENT,
    },
    "infer": dict.fromkeys((C10, C100, TINY, IN1K), INFER_STUDENT),
}
# CV-DD's table for ResNet-18, (lr, eta) at IPC 1, 10, 50; SRe2L++ has it too
LR_ETA = {
    C10: ((1e-3, 1), (1e-3, 1), (1e-3, 1)),
    C100: ((1e-3, 1), (1e-3, 2), (1e-3, 1)),
    TINY: ((1e-3, 2), (1e-3, 1), (1e-3, 2)),
    NETTE: ((5e-4, 2), (5e-4, 1), (5e-4, 2)),
    IN1K: ((1e-3, 2), (1e-3, 2), (1e-3, 1)),
}
# R18, R50, ShuffleV2, MobileV2, Dense121
PRIORS = {
    C10: (63, 65.3, 68.5, 67.6, 67.4),
    C100: (64, 60.6, 51.6, 59.4, 56.4),
    TINY: (46.5, 28.3, 43.6, 44.8, 41.5),
    NETTE: (62.4, 52, 57.2, 54, 60.8),
    IN1K: (56.4, 42.3, 52.5, 44.2, 40.6),
}
COMMITTEE = ("resnet18", "resnet50", "shufflenetv2", "mobilenetv2", "densenet121")
PRETRAINED = ("resnet18", "resnet50", "shufflenet_v2_x1_0", "mobilenet_v2", "densenet121")
FIRST_VOTERS = {
    C10: ("mobilenetv2", "densenet121"),
    NETTE: ("mobilenetv2", "densenet121"),
    C100: ("shufflenetv2", "mobilenetv2"),
    TINY: ("resnet18", "mobilenetv2"),
    IN1K: ("torchvision:resnet18", "torchvision:shufflenet_v2_x1_0"),
}
RDED_BATCH = {C10: (10, 50, 100), C100: (20, 100, 200), TINY: (100,) * 3, NETTE: (10, 50, 100), IN1K: (20, 100, 200)}


def entries(method: str) -> list[RecipeEntry]:
    """The published ones; demo and reduced recipes say that they are ours."""
    return [entry for entry in published(find_method(method)).recipe if entry.source.startswith("arXiv ")]


def dataset(name: str):
    """Digits under the name and at the size of another data set, which may not be here."""
    return replace(load_dataset("digits"), id=name, side=describe(name).side)


def defaults(method: str) -> dict[tuple[str, int], object]:
    """(data set, IPC) -> hyper-parameters of the default recipe, as a run resolves them."""
    cells = [(name, ipc) for name, ipcs in CELLS[method].items() for ipc in ipcs]
    return {(name, ipc): resolve(find_method(method), dataset(name), Budget(ipc=ipc)).hyper for name, ipc in cells}


def values(hyper: object, names: str) -> tuple[object, ...]:
    return tuple(getattr(hyper, name) for name in names.split())


@by_method
def test_the_cells_of_the_papers_have_exactly_one_default(method):
    chosen = [entry for entry in entries(method) if entry.default]
    found = sorted((entry.dataset, budget.ipc) for entry in chosen for budget in entry.budgets())
    assert found == sorted((name, ipc) for name, ipcs in CELLS[method].items() for ipc in ipcs)


@by_method
def test_every_recipe_resolves_and_its_networks_exist(method):
    for entry in entries(method):
        for budget in entry.budgets():
            found = resolve(find_method(method), dataset(entry.dataset), budget, recipe=entry.name)
            assert found.name == entry.name and found.network == entry.network
            for member in getattr(found.hyper, "committee", ()):
                networks.parse(member, side=describe(entry.dataset).side)


@by_method
def test_the_generic_recipe_resolves_and_has_every_field_that_needs_a_value(method):
    found = resolve(find_method(method), load_dataset("digits"), Budget(ipc=10), recipe="generic")
    assert found.network == "convnet-d2-bn"
    committee = getattr(found.hyper, "committee", ())
    names = [networks.canonical(name, side=8) for name in committee]
    assert len(set(names)) == len(names)


@by_method
def test_a_recipe_says_what_is_ours_and_reduced_ones_are_cheaper_than_published(method):
    for entry in entries(method):
        assert not entry.name.endswith("-reduced") and entry.name != "demo", entry
        assert entry.name != "assumed" or "not established" in entry.source or "does not state" in entry.source, entry


@by_method
def test_networks_and_weights(method):
    for entry in entries(method):
        expected = {IN1K: "torchvision:resnet18", IN21K: "timm:resnet18"}.get(entry.dataset, "resnet18")
        assert entry.network == expected, entry
        weights = "pretrained" if entry.dataset == IN1K else "trained"
        assert entry.hyper.get("weights", "trained") == weights, entry


@by_method
def test_teachers(method):
    names = (
        "teacher_optimizer teacher_lr teacher_weight_decay teacher_epochs teacher_batch teacher_stretch teacher_warmup"
    )
    for (name, ipc), hyper in defaults(method).items():
        if name not in (IN1K, IN21K):
            found = values(hyper, f"{names} teacher_crop")
            assert found == pytest.approx(SQUEEZE[method][name]), (name, ipc)
    assert all(e.hyper["teacher_epochs"] == 80 for e in entries(method) if e.dataset == IN21K)


@pytest.mark.parametrize("method", RECOVER)
def test_recover_stage(method):
    for (name, ipc), hyper in defaults(method).items():
        lr, iterations, r_bn, block, roll, crop, curriculum = RECOVER[method][name]
        assert values(hyper, "recover_lr iterations r_bn roll crop") == (lr, iterations, r_bn, roll, crop), (name, ipc)
        assert values(hyper, "curriculum milestone crop_low") == (curriculum, 1, 0.08), (name, ipc)
        if method != "infer":
            assert hyper.block == block and values(hyper, "init difficulty") == INIT[method], (name, ipc)
        assert hyper.codec == "jpeg75" and hyper.labels == "online", (name, ipc)


STUDENT_NAMES = (
    "student_optimizer student_lr student_weight_decay student_epochs student_batch bn_batch temperature squared mix "
    "mix_alpha eta student_warmup"
)


@pytest.mark.parametrize("method", STUDENT)
def test_students(method):
    for (name, ipc), hyper in defaults(method).items():
        found, expected = values(hyper, STUDENT_NAMES), STUDENT[method][name]
        unmixed = expected[8] == "none"  # whose alpha is nobody's
        assert [v for i, v in enumerate(found) if not (unmixed and i == 9)] == [
            v for i, v in enumerate(expected) if not (unmixed and i == 9)
        ], (name, ipc)
        cifar = name in (C10, C100)
        pads = cifar or (method == "infer" and name == TINY)
        assert values(hyper, "student_crop shuffle") == ("pad" if pads else "resized", 1), (name, ipc)
        if pads:
            assert hyper.student_pad * describe(name).side == 4, (name, ipc)
        else:
            assert hyper.student_crop_low == 0.08, (name, ipc)
        assert hyper.decay_all == (cifar or method == "infer"), (name, ipc)
        by_batch = method == "sre2l" and cifar  # the teacher that nothing sets to eval
        assert values(hyper, "label_bn label_sub_batch") == ("batch" if by_batch else "eval", None), (name, ipc)


@pytest.mark.parametrize("method", VOTING)
def test_students_of_the_voting_methods(method):
    for (name, ipc), hyper in defaults(method).items():
        lr, eta = LR_ETA[name][(1, 10, 50).index(ipc)]
        batch = 10 if (name, ipc) in ((C10, 1), (NETTE, 1)) else 16
        expected = ("adamw", lr, 0.01, 300, batch, batch // 2, 20, False, "cutmix", 1, eta, 0)
        assert values(hyper, STUDENT_NAMES) == expected, (name, ipc)
        assert values(hyper, "label_bn label_sub_batch decay_all") == ("batch", batch // 2, False), (name, ipc)
        assert values(hyper, "student_crop student_crop_low shuffle") == ("resized", 0.08, 1), (name, ipc)


def test_committee_of_cvdd():
    for (name, ipc), hyper in defaults("cvdd").items():
        members = tuple(f"torchvision:{member}" for member in PRETRAINED) if name == IN1K else COMMITTEE
        assert (hyper.committee, hyper.prior) == (members, PRIORS[name]), (name, ipc)
        assert values(hyper, "voters vote_temperature label_temperature") == (2, 5, 10), (name, ipc)
        assert hyper.first_voters == (FIRST_VOTERS[name] if ipc == 1 else None), (name, ipc)
        assert hyper.pairing == ("cycle" if ipc == 10 else "random"), (name, ipc)


def test_committee_of_infer():
    for (name, _), hyper in defaults("infer").items():
        if name == IN1K:
            assert hyper.committee == tuple(f"torchvision:{m}" for m in ("resnet18", "mobilenet_v2", "efficientnet_b0"))
        else:
            assert hyper.committee == ("resnet18", "mobilenetv2", "efficientnet-b0", "shufflenetv2")
        assert hyper.label_kind == "static" and hyper.skip_second_norm
    dynamic = [entry for entry in entries("infer") if entry.name == "dynamic"]
    assert all(e.hyper["student_epochs"] == 400 / (len(e.hyper["committee"]) + 1) for e in dynamic)


def test_rded():
    for (name, ipc), hyper in defaults("rded").items():
        batch = RDED_BATCH[name][(1, 10, 50).index(ipc)]
        factor = 2 if name in (NETTE, IN1K) else 1
        expected = ("adamw", 0.001, 0.01, 300, batch, None, 20, False, "cutmix", 1, 2, 0)
        assert values(hyper, STUDENT_NAMES) == expected, (name, ipc)
        assert values(hyper, "pool crops factor difficulty") == (300, 5, factor, "easy"), (name, ipc)
        assert values(hyper, "student_crop student_crop_low shuffle") == ("resized", 1 / factor, factor), (name, ipc)
        assert values(hyper, "label_bn label_sub_batch decay_all") == ("eval", None, False), (name, ipc)
        assert batch <= ipc * describe(name).classes and ipc * factor**2 <= hyper.pool, (name, ipc)


def test_recipes_beside_the_defaults_change_what_their_sources_say_and_nothing_else():
    found = {}
    for method in METHODS:
        usual = defaults(method)
        for entry in entries(method):
            for budget in entry.budgets() if not entry.default else ():
                hyper = resolve(find_method(method), dataset(entry.dataset), budget, recipe=entry.name).hyper
                plain, base = hyper.model_dump(), usual[entry.dataset, budget.ipc].model_dump()
                changed = {key: value for key, value in plain.items() if value != base[key]}
                found[method, entry.name, entry.dataset, budget.ipc] = changed
    assert found == OTHERS
