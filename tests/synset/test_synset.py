"""SynSet: what is checked when one is made, stored and read."""

import json
import pickle
import struct
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from ddbench.data.registry import load_dataset
from ddbench.data.spaces import make_space
from ddbench.errors import UsageError
from ddbench.synset.synset import Provenance, SynSet, Targets, Views, load, save
from ddbench.training.recipe import StudentRecipe

RECIPE = StudentRecipe(network="mlp", optimizer={"name": "sgd", "lr": 0.01}, epochs=3, batch=4)
NAMES = ("käse 🧀", "\u202eright to left", "a\nb", "ab", "a b", "'\"\\", "日本語", "../../x", "8", "9")


def a_set(**changes):
    digits = load_dataset("digits")
    fields = {
        "classes": torch.arange(10),
        "space": make_space("normalised", digits),
        "images": torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
    }
    return SynSet.of(digits, **{**fields, **changes})


def full():
    return a_set(
        targets=Targets("soft", {"form": "logits"}, {"labels": torch.randn(10, 10)}),
        views=Views("tiles", {"factor": 2}, {"extra": torch.arange(4)}),
        student_recipe=RECIPE,
        provenance=Provenance(method="dm", seed=3, recipe={"lr": 0.1}, recipe_hash="0" * 64, seconds=1.5, note="n"),
    )


def header_of(path):
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + size])["__metadata__"], raw


def rewrite(path, **changes):
    """The file with changed header fields, its tensors as they are."""
    header = json.loads(header_of(path)[0]["ddbench"]) | changes
    save_file(load_file(path), path, {"ddbench": json.dumps(header)})


@pytest.mark.parametrize("kind", ["pixel", "normalised", "zca"])
def test_round_trip(tmp_path, kind):
    made = replace(full(), space=make_space(kind, load_dataset("digits")))
    save(made, tmp_path / "set.safetensors")
    read = load(tmp_path / "set.safetensors")
    assert read.hash == made.hash and read.header() == made.header() and read.provenance == made.provenance
    assert read.tensors().keys() == made.tensors().keys()
    for name, tensor in made.tensors().items():
        assert torch.equal(read.tensors()[name], tensor) and read.tensors()[name].dtype == tensor.dtype
    assert read.student_recipe == RECIPE and read.space == made.space and len(read) == 10
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["set.safetensors"]


def test_odd_class_names_survive(tmp_path):
    save(a_set(class_names=NAMES), tmp_path / "s")
    assert load(tmp_path / "s").class_names == NAMES


def test_the_hash_covers_all_but_provenance():
    made = full()
    assert made.with_provenance(method="other", seconds=9.0, note="x").hash == made.hash
    targets, views = made.targets, made.views
    changes = [
        {"dataset": "other"},
        {"split_hash": "1" * 64},
        {"class_names": NAMES},
        {"classes": torch.arange(10).flip(0)},
        {"space": make_space("pixel", load_dataset("digits"))},
        {"images": made.images + torch.eye(8) * 1e-6},
        {"images": (made.images * 0).to(torch.uint8), "codec": "uint8"},
        {"images": (made.images * 0).to(torch.uint8), "codec": "jpeg75"},
        {"images": None, "indices": torch.arange(10)},
        {"targets": None},
        {"targets": Targets("soft", {"form": "probabilities"}, targets.tensors)},
        {"targets": Targets("other", targets.params, targets.tensors)},
        {"targets": Targets("soft", targets.params, {"labels": targets.tensors["labels"] + 1})},
        {"views": Views("tiles", {"factor": 3}, views.tensors)},
        {"views": None},
        {"student_recipe": None},
        {"student_recipe": RECIPE.model_copy(update={"epochs": 4})},
    ]
    hashes = {made.hash, *(replace(made, **change).hash for change in changes)}
    assert len(hashes) == len(changes) + 1


def test_pixels_by_definition():
    digits = load_dataset("digits")
    stored = torch.randint(0, 256, (10, 1, 8, 8), dtype=torch.uint8)
    space = make_space("normalised", digits)
    mean, std = space.mean[0], space.std[0]
    assert torch.allclose(
        a_set(images=stored, codec="uint8").pixels(digits), (stored.float() / 255 - mean) / std, atol=1e-6
    )
    indices = torch.tensor([5, 5, 1437, 0, 1, 2, 3, 4, 6, 7])
    wanted = (digits.train.read()[indices].float() / 255 - mean) / std
    assert torch.allclose(a_set(images=None, indices=indices).pixels(digits), wanted, atol=1e-6)
    made = a_set()
    assert torch.equal(made.pixels(digits), made.images)


def test_a_set_fits_only_its_own_data():
    digits = load_dataset("digits")
    for change, message in (
        ({"dataset": "mnist"}, "made for mnist"),
        ({"split_hash": "0" * 64}, "made for digits"),
        ({"class_names": tuple("9876543210")}, "class names"),
        ({"images": None, "indices": torch.full((10,), 1438)}, "1438"),
    ):
        with pytest.raises(UsageError, match=message):
            a_set(**change).pixels(digits)


BAD = {
    "nan": {"images": torch.full((10, 1, 8, 8), torch.nan)},
    "infinite": {"images": torch.full((10, 1, 8, 8), torch.inf)},
    "shape": {"images": torch.zeros(10, 1, 8, 9)},
    "count": {"images": torch.zeros(9, 1, 8, 8)},
    "flat": {"images": torch.zeros(10, 64)},
    "double": {"images": torch.zeros(10, 1, 8, 8, dtype=torch.float64)},
    "float as uint8": {"codec": "uint8"},
    "codec": {"codec": "webp"},
    "classes above": {"classes": torch.arange(10) + 1},
    "classes below": {"classes": torch.arange(10) - 1},
    "classes int32": {"classes": torch.arange(10, dtype=torch.int32)},
    "classes one-hot": {"classes": torch.eye(10, dtype=torch.int64)},
    "classes scalar": {"classes": torch.tensor(3)},
    "empty": {"classes": torch.arange(0), "images": torch.zeros(0, 1, 8, 8)},
    "both": {"indices": torch.arange(10)},
    "neither": {"images": None},
    "index below": {"images": None, "indices": torch.arange(10) - 1},
    "channels": {"channels": 2},
    "channels true": {"channels": True},
    "side zero": {"side": 0},
    "side huge": {"side": 10**9},
    "no names": {"class_names": ()},
    "empty name": {"class_names": ("",) * 10},
    "no data set": {"dataset": ""},
    "target nan": {"targets": Targets("soft", {"form": "logits"}, {"labels": torch.full((10, 10), torch.nan)})},
    "view type": {"views": Views("v", {}, {"x": torch.zeros(2, dtype=torch.complex64)})},
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD.keys())
def test_an_inconsistent_set_cannot_be_made(change):
    with pytest.raises(UsageError) as error:
        a_set(**change)
    assert "\n" not in str(error.value)


def refused(path):
    with pytest.raises(UsageError) as error:
        load(path)
    message = str(error.value)
    assert str(path) in message and "\n" not in message and len(message) < 600
    return message


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "set"
    save(full(), path)
    raw = path.read_bytes()
    for size in [0, 4, 8, 9, 100, len(raw) // 2, len(raw) - 1]:
        path.write_bytes(raw[:size])
        refused(path)
    path.write_bytes(raw + b"x")
    refused(path)


def test_every_flipped_byte_is_refused(tmp_path):
    path, made = tmp_path / "set", full()
    save(made, path)
    raw, generator = path.read_bytes(), torch.Generator().manual_seed(0)
    body = 8 + struct.unpack("<Q", raw[:8])[0]
    for place in torch.randint(body, len(raw), (20,), generator=generator).tolist():
        changed = bytearray(raw)
        changed[place] ^= 1
        path.write_bytes(changed)
        refused(path)
    for place in torch.randint(0, body, (40,), generator=generator).tolist():
        changed = bytearray(raw)
        changed[place] ^= 1
        path.write_bytes(changed)
        try:
            read = load(path)
        except UsageError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:  # a bit of the provenance, which the hash leaves out
            assert read.hash == made.hash


HEADERS = {
    "format": {"format": "other"},
    "version": {"version": 2},
    "names": {"class_names": [str(i) for i in range(11)]},
    "hash": {"hash": "0" * 64},
    "no hash": {"hash": None},
    "space": {"space": {"kind": "fourier"}},
    "space none": {"space": None},
    "zca without probe": {"space": {"kind": "zca", "eps": 0.1}},
    "side text": {"side": "8"},
    "side bool": {"side": True, "channels": True},
    "names none": {"class_names": None},
    "names numbers": {"class_names": list(range(10))},
    "recipe": {"student_recipe": {"network": "mlp"}},
    "recipe key": {"student_recipe": {**RECIPE.model_dump(mode="json"), "surprise": 1}},
    "recipe text": {"student_recipe": "mlp"},
    "targets": {"targets": None},
    "targets text": {"targets": "soft"},
    "targets params": {"targets": {"kind": "soft", "params": {"x": float("nan")}}},
    "surrogate": {"class_names": ["\ud800", *"123456789"]},
    "provenance": {"provenance": {"method": 3}},
    "provenance key": {"provenance": {"surprise": 3}},
    "provenance infinite": {"provenance": {"seconds": float("inf")}},
}


@pytest.mark.parametrize("change", HEADERS.values(), ids=HEADERS.keys())
def test_a_changed_header_is_refused(tmp_path, change):
    path = tmp_path / "set"
    save(full(), path)
    rewrite(path, **change)
    refused(path)


def test_a_header_without_a_field_is_refused(tmp_path):
    path = tmp_path / "set"
    save(full(), path)
    good = json.loads(header_of(path)[0]["ddbench"])
    for name in good.keys() - {"hash"}:
        save_file(load_file(path), path, {"ddbench": json.dumps({k: v for k, v in good.items() if k != name})})
        assert name in refused(path) or name == "format"


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "file"
    save_file({"x": torch.zeros(2)}, path)
    assert "no ddbench SynSet" in refused(path)
    for metadata in ("[]", "3", "{", '{"format": "ddbench-synset", "version": 1}', "[" * 100_000):
        save_file({"x": torch.zeros(2)}, path, {"ddbench": metadata})
        refused(path)
    save(full(), path)
    tensors, metadata = load_file(path), header_of(path)[0]
    save_file({**tensors, "surprise": torch.zeros(1)}, path, metadata)
    assert "surprise" in refused(path)
    save_file({k: v for k, v in tensors.items() if k != "classes"}, path, metadata)
    assert "classes" in refused(path)
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    refused(path)
    path.write_bytes(struct.pack("<Q", 200 * 2**20) + b" " * 1000)
    refused(path)
    refused(tmp_path)
    assert "no such file" in refused(tmp_path / "absent")


class Bomb:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return exec, (f"import pathlib; pathlib.Path({self.marker!r}).touch()",)


def test_a_pickle_is_refused_and_not_executed(tmp_path):
    marker = tmp_path / "executed"
    path = tmp_path / "file.pt"
    path.write_bytes(pickle.dumps(Bomb(marker)))
    refused(path)
    torch.save({"images": Bomb(marker)}, path)
    refused(path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Bomb(marker)))
    assert marker.exists()  # the bomb is a live one


def test_a_tensor_that_lies_about_its_size_allocates_nothing(tmp_path):
    """An image tensor of 2^40 values in a file of a few bytes."""
    entry = {"images": {"dtype": "F32", "shape": [2**30, 1, 32, 32], "data_offsets": [0, 2**42]}}
    header = json.dumps(entry).encode()
    path = tmp_path / "file"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    refused(path)


def test_a_full_disk_keeps_the_old_set(tmp_path, monkeypatch):
    path = tmp_path / "set"
    save(full(), path)
    before = path.read_bytes()

    def no_space(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", no_space)
    with pytest.raises(UsageError, match="cannot write"):
        save(a_set(), path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir() if p.is_file()] == ["set"]


def test_tensors_that_share_memory_are_stored(tmp_path):
    both = torch.arange(10)
    save(a_set(images=None, classes=both, indices=both), tmp_path / "set")
    read = load(tmp_path / "set")
    assert torch.equal(read.classes, both) and torch.equal(read.indices, both)
