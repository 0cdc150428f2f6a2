"""Cache: what is built once, sealed, made again when damaged; teachers; checkpoints."""

import json
import logging
import multiprocessing
import os

import pytest
import torch
from safetensors.torch import save_file

from ddbench import networks
from ddbench.data.registry import load_dataset
from ddbench.data.spaces import make_space, transform_for
from ddbench.errors import CannotWrite, UsageError
from ddbench.evaluation import reference_teacher as reference
from ddbench.evaluation.protocol import find_protocol
from ddbench.evaluation.reference_teacher import measured_accuracy, reference_teacher
from ddbench.jobs.pool import PRELOAD
from ddbench.synset import teachers
from ddbench.training.cache import Cache
from ddbench.training.checkpoints import Checkpoint
from ddbench.training.loop import train
from ddbench.training.sealed import read_sealed, write_sealed

CPU = torch.device("cpu")


class Builder:
    """Counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return {"x": torch.arange(4.0)}, {"note": [1, "a"]}


def file_of(cache):
    (path,) = cache.folder.glob("*.safetensors")
    return path


def test_a_product_is_built_once():
    build, cache = Builder(), Cache("experts", {"lr": 0.1})
    first = cache.product(build)
    second = Cache("experts", {"lr": 0.1}).product(build)
    assert build.calls == 1 and first.hash == second.hash and len(first.hash) == 64
    assert torch.equal(second.tensors["x"], torch.arange(4.0)) and second.info == {"note": [1, "a"]}
    assert json.loads((cache.folder / "key.json").read_text()) == {"lr": 0.1}
    assert cache.entries() == ["product"]


def test_an_entry_can_be_dropped():
    cache = Cache("experts", {"lr": 0.1})
    for name in ("000-001", "000-002"):
        cache.save(name, {"x": torch.zeros(2)})
    assert cache.entries() == ["000-001", "000-002"]
    cache.drop("000-001")
    cache.drop("000-001")
    assert cache.entries() == ["000-002"] and cache.load("000-001") is None


def test_an_entry_in_the_making_has_a_checkpoint_until_it_is_sealed():
    cache = Cache("squeeze", {"lr": 0.1})
    for name in ("resnet18", "resnet50"):
        half = cache.checkpoint(name)
        half.interval = 0.0
        half.save_when_due(lambda name=name: {"step": 3, "network": {name: torch.ones(2)}})
    assert cache.entries() == [] and cache.load("resnet18") is None  # half an entry is none
    again = Cache("squeeze", {"lr": 0.1}).checkpoint("resnet18").load()
    assert again["step"] == 3 and torch.equal(again["network"]["resnet18"], torch.ones(2))
    assert Cache("squeeze", {"lr": 0.2}).checkpoint("resnet18").load() is None
    cache.save("resnet18", {"x": torch.zeros(1)})
    assert cache.checkpoint("resnet18").load() is None and cache.checkpoint("resnet50").load()["step"] == 3
    assert cache.entries() == ["resnet18"]
    assert not list(cache.folder.glob("*resnet18*checkpoint*"))


def test_every_difference_of_the_key_separates():
    build = Builder()
    keys = [{"lr": 0.1}, {"lr": 0.2}, {"lr": 0.1, "holdout": None}, {"lr": "0.1"}, {}]
    for key in keys:
        Cache("experts", key).product(build)
    Cache("other", keys[0]).product(build)
    assert build.calls == len(keys) + 1
    assert Cache("a", {"x": 1, "y": 2}).folder == Cache("a", {"y": 2, "x": 1}).folder


def flip(path, place):
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)


DAMAGE = {
    "flipped": lambda path: flip(path, -1),
    "header": lambda path: flip(path, 2),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello"),
    "other": lambda path: save_file({"x": torch.zeros(3)}, path),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_entry_is_made_again_with_a_warning(damage, caplog):
    build, cache = Builder(), Cache("experts", {"lr": 0.1})
    first = cache.product(build)
    damage(file_of(cache))
    with caplog.at_level(logging.WARNING, "ddbench"):
        again = cache.product(build)
    assert build.calls == 2 and again.hash == first.hash and torch.equal(again.tensors["x"], first.tensors["x"])
    assert len(caplog.records) == 1 and "damaged" in caplog.text
    assert cache.product(build).hash == first.hash and build.calls == 2


def test_a_build_that_fails_leaves_nothing_and_can_be_repeated():
    build, cache = Builder(), Cache("experts", {"lr": 0.1})

    def broken():
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError):
        cache.product(broken)
    assert cache.entries() == []
    cache.product(build)
    assert build.calls == 1


def test_the_environment_is_recorded_and_not_hashed(tmp_path, monkeypatch):
    import ddbench.training.sealed

    one = write_sealed(tmp_path / "a", {"x": torch.zeros(2)}, {"n": 1})
    monkeypatch.setattr(ddbench.training.sealed, "environment", lambda: {"processor": "another"})
    other = write_sealed(tmp_path / "b", {"x": torch.zeros(2)}, {"n": 1})
    assert one.hash == other.hash == read_sealed(tmp_path / "b").hash
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()


def test_tied_tensors_can_be_sealed(tmp_path):
    tied = torch.arange(3.0)
    write_sealed(tmp_path / "a", {"x": tied, "y": tied, "z": tied[1:]}, {})
    read = read_sealed(tmp_path / "a").tensors
    assert torch.equal(read["x"], tied) and torch.equal(read["y"], tied) and torch.equal(read["z"], tied[1:])


def test_two_processes_build_once(toys):
    import toybox

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    running = [context.Process(target=toybox.build_apart, args=(dict(os.environ),)) for _ in range(2)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert toys.count("stage") == 1
    assert toys.count(Cache("slow", {}).load("product").hash) == 2


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DDBENCH_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(CannotWrite, match="cannot"):
        Cache("experts", {}).product(Builder())


def test_checkpoints_keep_nested_states(tmp_path):
    checkpoint = Checkpoint(tmp_path / "c", interval=0.0)
    assert checkpoint.load() is None
    parameter = torch.nn.Parameter(torch.randn(3, 2))
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = {
        "step": 5,
        "images": parameter,
        "best": float("inf"),
        "worst": float("-inf"),
        "flags": [True, None, "text", 0.1],
        "optimizer": optimizer.state_dict(),
        "a": {"b": torch.tensor(1)},
        "a.b": torch.tensor(2),
        "nothing": {},
        "half": torch.ones(2).bfloat16(),
        "view": parameter.detach()[1:],
    }
    checkpoint.save_when_due(lambda: state)
    read = Checkpoint(tmp_path / "c").load()
    assert read.keys() == state.keys()
    for name in ("step", "best", "worst", "flags", "nothing"):
        assert read[name] == state[name] and type(read[name]) is type(state[name])
    assert torch.equal(read["images"], parameter) and not read["images"].requires_grad
    assert int(read["a"]["b"]) == 1 and int(read["a.b"]) == 2
    assert read["half"].dtype == torch.bfloat16 and torch.equal(read["view"], parameter.detach()[1:])
    second = torch.nn.Parameter(parameter.detach().clone())
    resumed = torch.optim.Adam([second], lr=0.1)
    resumed.load_state_dict(read["optimizer"])
    for p, o in ((parameter, optimizer), (second, resumed)):
        p.grad = torch.full_like(p, 0.5)
        o.step()
    assert torch.equal(parameter, second)


def test_checkpoints_are_saved_when_due_and_cleared(tmp_path):
    asked = []

    def state():
        asked.append(1)
        return {"step": len(asked)}

    rare = Checkpoint(tmp_path / "rare", interval=1000.0)
    rare.save_when_due(state)
    assert not asked and rare.load() is None  # not even computed
    often = Checkpoint(tmp_path / "often", interval=0.0)
    often.save_when_due(state)
    often.save_when_due(state)
    assert often.load() == {"step": 2}
    often.clear()
    often.clear()
    assert often.load() is None
    Checkpoint(None).save_when_due(state)
    assert Checkpoint(None).load() is None


def test_a_damaged_checkpoint_counts_as_none(tmp_path, caplog):
    checkpoint = Checkpoint(tmp_path / "c", interval=0.0)
    checkpoint.save_when_due(lambda: {"x": torch.zeros(3)})
    flip(tmp_path / "c", -1)
    assert checkpoint.load() is None and "damaged" in caplog.text


def test_many_networks_of_one_role_are_one_line():
    def facts(accuracy, network="convnet-d3", **more):
        return {"role": "expert", "network": network, "epoch": 4, "accuracy": accuracy, **more}

    hundred = {str(n): facts(0.412 + 0.00018 * n) for n in range(101)}
    assert list(teachers.roles(hundred)) == [("experts", "101 convnet-d3, epoch 4, test accuracy 41.2 to 43.0 %")]
    mixed = {"a": {"network": "mlp"}, "b": facts(0.5), "c": facts(0.6, epoch=9), "d": {"role": "prior", "accuracy": 1}}
    assert [words for _, words in teachers.roles(mixed)] == [
        "1 convnet-d3, epoch 4, test accuracy 50.0 %",
        "1 convnet-d3, epoch 9, test accuracy 60.0 %",
        "1 of unknown network, test accuracy 100.0 %",
    ]
    assert list(teachers.roles({})) == []


def toy_recipe(digits):
    return find_protocol("toy-soft-v1").reference(digits)


def test_the_reference_teacher_by_definition(toys):
    digits = load_dataset("digits")
    recipe = toy_recipe(digits)
    teacher = reference_teacher(recipe, digits, CPU)
    network = networks.create(recipe.network, channels=1, side=8, classes=10, seed=0, key=("reference-teacher",))
    space = make_space("normalised", digits)
    images = transform_for(space, digits).encode(digits.train.read().float() / 255)
    train(network, images, digits.train.labels, recipe, seed=0)
    for name, tensor in network.state_dict().items():
        assert torch.equal(teacher.state[name], tensor)
    assert teacher.space == space and teacher.recipe_hash == recipe.hash()
    module = teacher.module(CPU)
    assert not module.training and not any(p.requires_grad for p in module.parameters())


def test_teachers_are_trained_once_kept_by_content_and_remade(toys, monkeypatch, caplog):
    digits = load_dataset("digits")
    trainings = []
    real = reference.train

    def spy(*args, **kwargs):
        trainings.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(reference, "train", spy)
    first = reference_teacher(toy_recipe(digits), digits, CPU)
    assert reference_teacher(toy_recipe(digits), digits, CPU).hash == first.hash and len(trainings) == 1
    assert teachers.recall(first.hash).hash == first.hash and teachers.recall("0" * 64) is None
    accuracy = measured_accuracy(first, digits, CPU)
    assert measured_accuracy(first, digits, CPU) == accuracy
    path = next((teachers.cache_dir() / "teachers").glob("*.safetensors"))
    flip(path, -1)
    assert reference_teacher(toy_recipe(digits), digits, CPU).hash == first.hash and len(trainings) == 2
    assert "damaged" in caplog.text
    (teachers.cache_dir() / "teachers" / f"{first.hash}.accuracy.json").write_text("{")
    assert measured_accuracy(first, digits, CPU) == accuracy
    path.unlink()
    with pytest.raises(UsageError, match=first.hash[:12]):
        teachers.require(first.hash)
    changed = toy_recipe(digits).model_copy(update={"max_steps": 3})
    assert reference_teacher(changed, digits, CPU).hash != first.hash and len(trainings) == 3


def test_a_teachers_hash_covers_weights_and_facts(toys):
    from dataclasses import replace

    digits = load_dataset("digits")
    teacher = reference_teacher(toy_recipe(digits), digits, CPU)
    name = next(iter(teacher.state))
    others = [
        replace(teacher, state={**teacher.state, name: teacher.state[name] + 1}),
        replace(teacher, network="mlp"),
        replace(teacher, space=make_space("pixel", digits)),
        replace(teacher, class_names=tuple("9876543210")),
    ]
    assert len({teacher.hash, *(other.hash for other in others)}) == 5
    assert teacher.bytes() == sum(t.numel() * t.element_size() for t in teacher.state.values())
