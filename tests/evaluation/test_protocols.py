"""Protocols: every constant of the design's table, and digests that may not move without a new version."""

from dataclasses import replace

import pytest

from ddbench.augment import build_augmentation, build_mixing
from ddbench.data.dataset import Dataset
from ddbench.errors import UsageError
from ddbench.evaluation.protocol import find_protocol, protocol_names
from ddbench.training.losses import LOSSES
from ddbench.training.optimizers import OPTIMIZERS, SCHEDULES
from ddbench.training.recipe import StudentRecipe

DIGESTS = {
    "hard-plain-v1": "b0a2b9d4f7b2a6759e8da951259f1981d4d3b44743990f54444feb0e33252e51",
    "hard-small-v1": "25c537d8e9ef24bbddc9e2db7f744ccc00b808fba3a7039f001a5829271cfa6a",
    "hard-v1": "75105462e4693a7e1b1baa5952eace4d37dc3eca3e83ad6bcc61f623e57969e6",
    "shipped-v1": "a69758e972d457ff6a5c683831f39dc93b2fc1a07d778bda1d4f0eb934b110a5",
    "soft-plain-v1": "ff17e9eca1ea0cd2df1b5ccc1ade06a7d4699dd7f05900147a205f7f503c1519",
    "soft-small-v1": "207456d47c90bd9c70a2b55970f69b253d87eb89931b5b1cb6a608d07417d9ef",
    "soft-v1": "6b8b4b5e1a5569a3208dbc7a61b010bcf25de7ecfd10f57feaeb70f28dcf151a",
}
"""A changed digest is a changed protocol: give it a new version and a new name, and leave the old one as it is."""

SIDES = (8, 16, 17, 28, 32, 48, 49, 64, 65, 96, 97, 128, 129, 224)
NO_FLIP = ("digits", "mnist", "svhn")


def data(side, name="cifar10"):
    return Dataset(name, tuple("0123456789"), 3, side, name not in NO_FLIP, (0.5,) * 3, (0.5,) * 3, None, None)


def student(protocol, side, name="cifar10", network=None):
    return find_protocol(protocol).student(data(side, name), network)


def names_of(recipe):
    return [spec["name"] for spec in recipe.augmentations]


def test_digests_are_pinned_and_names_end_in_their_version():
    protocols = {name: find_protocol(name) for name in protocol_names()}
    assert {name: protocol.digest() for name, protocol in protocols.items()} == DIGESTS
    assert all(each.name == name and name.endswith(f"-v{each.version}") for name, each in protocols.items())


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", ["cifar10", *NO_FLIP])
def test_hard(side, name):
    recipe = student("hard-v1", side, name)
    assert recipe.labels == "classes" and recipe.loss == {"name": "ce"} and recipe.mix is None
    if side > 128:
        assert recipe.network == "resnet18-bn" or recipe.network == "resnet18"
        assert recipe.optimizer == {"name": "adamw", "lr": 0.001, "weight_decay": 0.01, "betas": [0.9, 0.999]}
        assert recipe.schedule == {"name": "cosine", "stretch": 1.0}
        assert (recipe.batch, recipe.epochs, recipe.max_steps) == (128, 300, 500_000)
        crop = {"name": "random-resized-crop", "scale": [0.08, 1.0], "ratio": [3 / 4, 4 / 3]}
        assert recipe.augmentations == ([crop] if name in NO_FLIP else [crop, {"name": "flip", "p": 0.5}])
        return
    networks = {16: "convnet-d2-w64", 48: "convnet-d3", 96: "convnet-d4", 128: "convnet-d5"}
    wanted = next(network for limit, network in networks.items() if side <= limit)
    assert recipe.network.removesuffix("-in").removesuffix("-w128") == wanted.removesuffix("-in")
    assert recipe.optimizer == {"name": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0005}
    assert recipe.schedule == {"name": "step", "at": 0.5, "factor": 0.1}
    limits = (64, 300, 400) if side <= 16 else (256, 1000, 25_000)
    assert (recipe.batch, recipe.epochs, recipe.max_steps) == limits
    ops = ["color", "crop", "cutout", "flip", "scale", "rotate"]
    ops = [op for op in ops if op != "flip" or name not in NO_FLIP]
    assert recipe.augmentations == [
        {"name": "dsa", "ops": ops, "align_corners": True, "siamese": False, "crop_rounding": "floor"}
    ]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", ["cifar10", *NO_FLIP])
def test_soft(side, name):
    recipe = student("soft-v1", side, name)
    assert recipe.network.startswith("convnet-d2" if side <= 16 else "resnet18")
    assert side > 16 or recipe.network.endswith("-bn")
    assert recipe.optimizer == {"name": "adamw", "lr": 0.001, "weight_decay": 0.01, "betas": [0.9, 0.999]}
    assert recipe.schedule == {"name": "cosine", "stretch": 1.0}
    assert recipe.labels == "teacher" and recipe.loss == {"name": "kl", "temperature": 20.0, "squared": False}
    assert recipe.mix == {"name": "cutmix", "alpha": 1.0}
    steps = 400 if side <= 16 else 500_000
    assert (recipe.batch, recipe.epochs, recipe.max_steps) == (64 if side <= 64 else 128, 300, steps)
    padded = {"name": "pad-crop", "fraction": 0.125}
    crop = padded if side <= 64 else {"name": "random-resized-crop", "scale": [0.08, 1.0], "ratio": [3 / 4, 4 / 3]}
    assert recipe.augmentations == ([crop] if name in NO_FLIP else [crop, {"name": "flip", "p": 0.5}])
    assert find_protocol("soft-v1").space == "teacher"


@pytest.mark.parametrize("protocol", ["soft-v1", "soft-plain-v1", "soft-small-v1"])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", ["cifar10", *NO_FLIP])
def test_the_reference_teacher(protocol, side, name):
    small = protocol == "soft-small-v1"
    if small and not 28 <= side <= 64:
        return
    recipe = find_protocol(protocol).reference(data(side, name))
    assert recipe.network == student(protocol, side, name).network
    assert recipe.optimizer == {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0005}
    assert recipe.schedule == {"name": "cosine", "stretch": 1.0}
    assert recipe.loss == {"name": "ce"} and recipe.labels == "classes"
    steps = 400 if side <= 16 else 2_000 if small else 20_000
    assert (recipe.batch, recipe.epochs, recipe.max_steps, recipe.mix) == (128, 200, steps, None)
    assert names_of(recipe) == (["pad-crop"] if name in NO_FLIP else ["pad-crop", "flip"])


@pytest.mark.parametrize("protocol", ["hard", "soft"])
@pytest.mark.parametrize("side", SIDES)
def test_plain_is_the_same_without_augmentation_and_mixing(protocol, side):
    plain, full = student(f"{protocol}-plain-v1", side), student(f"{protocol}-v1", side)
    assert plain == full.model_copy(update={"augmentations": [], "mix": None})
    one, two = find_protocol(f"{protocol}-plain-v1"), find_protocol(f"{protocol}-v1")
    assert one.space == two.space and one.reference(data(side)) == two.reference(data(side))


@pytest.mark.parametrize("protocol", ["hard", "soft"])
@pytest.mark.parametrize("side", [28, 32, 48, 49, 64])
def test_small(protocol, side):
    small, full = student(f"{protocol}-small-v1", side), student(f"{protocol}-v1", side)
    depth = "d3" if side <= 48 else "d4"
    assert small.network.removesuffix("-in") == f"convnet-{depth}-w32" + ("-bn" if protocol == "soft" else "")
    assert small.batch == 128 and small.max_steps == (2_000 if side <= 48 else 500)
    changed = {"network", "batch", "max_steps"}
    assert small.model_dump(exclude=changed) == full.model_dump(exclude=changed)


@pytest.mark.parametrize("protocol", ["hard-small-v1", "soft-small-v1"])
@pytest.mark.parametrize("side", [8, 16, 17, 65, 224])
def test_small_refuses_other_sizes(protocol, side):
    with pytest.raises(UsageError, match=f"{side} px") as error:
        student(protocol, side)
    assert protocol in str(error.value) and "64" in str(error.value) and "\n" not in str(error.value)
    if find_protocol(protocol).teacher:
        with pytest.raises(UsageError):
            find_protocol(protocol).reference(data(side))


def test_the_network_is_an_argument_and_changes_nothing_else():
    for protocol in ("hard-v1", "soft-v1"):
        default, other = student(protocol, 32), student(protocol, 32, network="alexnet")
        assert other.network.startswith("alexnet") and other.model_copy(update={"network": default.network}) == default
        reference = find_protocol(protocol).reference(data(32))
        assert reference is None or reference.network == default.network
    with pytest.raises(UsageError, match="resnet18"):
        student("hard-v1", 32, network="resnet19")


def test_shipped_has_no_students_of_its_own():
    protocol = find_protocol("shipped-v1")
    assert protocol.shipped and protocol.space == "own" and protocol.reference(data(32)) is None
    assert not any(find_protocol(name).shipped for name in protocol_names() if name != "shipped-v1")


def test_every_part_of_every_protocol_can_be_built():
    for name in protocol_names():
        protocol = find_protocol(name)
        for tier in (*protocol.tiers, *protocol.teacher):
            recipe = StudentRecipe.model_validate({"network": "mlp", **tier.student})
            OPTIMIZERS.build(recipe.optimizer), SCHEDULES.build(recipe.schedule), LOSSES.build(recipe.loss)
            for spec in recipe.augmentations:
                build_augmentation(spec)
            if recipe.mix:
                build_mixing(recipe.mix)


def test_the_digest_sees_every_constant():
    soft = find_protocol("soft-v1")
    first = soft.tiers[0]
    changes = [
        {"name": "soft-v2"},
        {"version": 2},
        {"space": "own"},
        {"smallest": 2},
        {"tiers": soft.tiers[1:]},
        {"tiers": (replace(first, up_to=17), *soft.tiers[1:])},
        {"teacher": soft.teacher[1:]},
        *(
            {"tiers": (replace(first, student={**first.student, field: 7}), *soft.tiers[1:])}
            for field in StudentRecipe.model_fields
        ),
    ]
    assert len({soft.digest(), *(replace(soft, **change).digest() for change in changes)}) == len(changes) + 1
    assert replace(soft, summary="other words", accuracies={"digits": 0.9}).digest() == soft.digest()


def test_unknown_protocols_come_with_near_ones(toys):
    with pytest.raises(UsageError, match="did you mean hard-v1"):
        find_protocol("hard-v11")
    assert find_protocol("toy-hard-v1").version == 1
