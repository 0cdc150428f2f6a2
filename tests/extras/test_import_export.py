"""Sets from and to elsewhere: what is read means what it says, what cannot be is refused, nothing is lost on the way."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddbench.data.dataset import Dataset, memory_split
from ddbench.data.registry import load_dataset
from ddbench.data.spaces import make_space, transform_for
from ddbench.errors import UsageError
from ddbench.evaluation.from_tensors import from_tensors
from ddbench.evaluation.protocol import find_protocol
from ddbench.extras.import_export import export_set, import_set
from ddbench.extras.import_export.reading import LIMIT
from ddbench.synset.synset import Targets, Views, load
from ddbench.training.recipe import StudentRecipe

CLASSES = torch.arange(10)


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def colour():
    """Three classes of 8 x 8 RGB noise, one with a name that cannot name a folder."""
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (30, 3, 8, 8), generator=generator, dtype=torch.uint8)
    split = memory_split(pixels, torch.arange(30) % 3)
    mean, std = (0.5, 0.4, 0.3), (0.3, 0.2, 0.25)
    return Dataset("noise", ("cat", "dog/wolf", "bird"), 3, 8, True, mean, std, split, split)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


IMAGES = noise(10, 1, 8, 8)
SOFT = noise(10, 10, seed=1) + 5 * torch.eye(10)


def refused(match, *args, **more):
    call = import_set if isinstance(args[0], Path) else from_tensors
    with pytest.raises(UsageError, match=match) as caught:
        call(*args, **more)
    assert "\n" not in str(caught.value)


def test_tensors_keep_their_values_and_ship_nothing_of_their_own(digits):
    made = from_tensors(IMAGES.double().requires_grad_(), CLASSES.float(), digits, space="pixel", name="mine")
    assert torch.equal(made.images, IMAGES)
    assert made.classes.dtype == torch.int64 and torch.equal(made.classes, CLASSES)
    assert (made.space.kind, made.codec, made.dataset) == ("pixel", "float", "digits")
    assert made.provenance.method == "mine" and made.student_recipe is None and made.targets is None


def test_pixels_of_8_bits_stay_so_and_are_mapped_into_the_space_for_training(digits):
    pixels = torch.arange(640, dtype=torch.int64).remainder(256).to(torch.uint8).view(10, 1, 8, 8)
    made = from_tensors(pixels, CLASSES.to(torch.uint8), digits, space="normalised")
    assert made.codec == "uint8" and torch.equal(made.images, pixels)
    wanted = (pixels.float() / 255 - digits.mean[0]) / digits.std[0]
    assert torch.allclose(made.pixels(digits), wanted, atol=1e-6)


def test_step_size_and_soft_labels_ship_hard_v1_with_these_two_changes(digits):
    made = from_tensors(IMAGES, CLASSES, digits, soft_labels=SOFT, syn_lr=0.03)
    own = find_protocol("hard-v1").student(digits).model_dump()
    shipped = made.student_recipe
    changed = {k for k, v in shipped.model_dump().items() if v != own[k]}
    assert changed == {"optimizer", "loss", "labels"}
    assert shipped.optimizer == {**own["optimizer"], "lr": 0.03}
    assert shipped.loss == {"name": "soft-ce"} and shipped.labels == "targets"
    assert (made.targets.kind, made.targets.params) == ("soft", {"form": "logits"})
    assert torch.equal(made.targets.tensors["labels"], SOFT)
    only_lr = from_tensors(IMAGES, CLASSES, digits, syn_lr=0.03).student_recipe
    assert (only_lr.labels, only_lr.loss) == ("classes", {"name": "ce"})


def test_tensors_that_do_not_fit_are_refused_in_one_line(digits):
    with_nan = IMAGES.clone()
    with_nan[3, 0, 1, 1] = torch.nan
    refused("not finite", with_nan, CLASSES, digits)
    refused("not finite", IMAGES.double() * 1e300, CLASSES, digits)
    refused(r"\[n, 1, 8, 8\]", noise(10, 1, 9, 9), CLASSES, digits)
    refused("channels before", noise(10, 8, 8, 1), CLASSES, digits)
    refused("shape", IMAGES[:0], CLASSES[:0], digits)
    refused("float type", IMAGES.long(), CLASSES, digits)
    refused("0 to 255|divide by 255", IMAGES.abs() * 255, CLASSES, digits)
    refused("10 images", IMAGES, CLASSES[:9], digits)
    refused("-1 to 8, allowed are 0 to 9", IMAGES, CLASSES - 1, digits)
    refused("whole numbers", IMAGES, CLASSES + 0.5, digits)
    refused("whole numbers", IMAGES, CLASSES == 1, digits)
    refused("no image of 8 of the 10 classes", IMAGES, CLASSES % 2, digits)
    refused("unknown space", IMAGES, CLASSES, digits, space="rgb")
    refused("soft labels must be floats", IMAGES, CLASSES, digits, soft_labels=SOFT[:, :9])
    refused("soft labels hold", IMAGES, CLASSES, digits, soft_labels=SOFT * torch.inf)
    refused("sum to 1", IMAGES, CLASSES, digits, soft_labels=SOFT, soft_form="probabilities")
    for lr in (0.0, -1.0, float("nan"), float("inf")):
        refused("step size", IMAGES, CLASSES, digits, syn_lr=lr)


@pytest.mark.parametrize(
    "value",
    [
        {"images": IMAGES, "labels": CLASSES},
        {"image": IMAGES, "y": CLASSES.float(), "iteration": 500},
        {"syn": {"syn_images": IMAGES, "syn_labels": CLASSES}, "step": 3},
        {"data": [[IMAGES, CLASSES]], "accs_all_exps": {"ConvNet": [0.5, 0.6]}},
        [IMAGES, CLASSES],
        {"X": list(IMAGES), "targets": CLASSES.tolist()},
        {"images": IMAGES.requires_grad_(False), "labels": torch.eye(10)},
    ],
)
def test_the_usual_forms_of_pt_give_the_same_set(digits, tmp_path, value):
    torch.save(value, tmp_path / "set.pt")
    made = import_set(tmp_path / "set.pt", dataset=digits, space="normalised")
    assert made.hash == from_tensors(IMAGES, CLASSES, digits).hash


def test_images_labels_and_step_size_in_files_of_their_own(digits, tmp_path):
    torch.save(IMAGES, tmp_path / "images_best.pt")
    np.save(tmp_path / "labels.npy", CLASSES.numpy())
    torch.save(torch.tensor(0.02, requires_grad=True), tmp_path / "lr_best.pt")
    files = tmp_path / "images_best.pt", tmp_path / "labels.npy", tmp_path / "lr_best.pt"
    made = import_set(*files, dataset="digits", space="zca", out=tmp_path / "made.safetensors")
    wanted = from_tensors(IMAGES, CLASSES, digits, space="zca", syn_lr=float(torch.tensor(0.02)))
    assert made.hash == wanted.hash == load(tmp_path / "made.safetensors").hash
    np.savez(tmp_path / "set.npz", images=IMAGES.numpy(), labels=CLASSES.numpy(), syn_lr=np.float32(0.25))
    together = import_set(tmp_path / "set.npz", dataset=digits, space="normalised")
    assert together.hash == from_tensors(IMAGES, CLASSES, digits, syn_lr=0.25).hash
    by_number = import_set(*files[:2], 0.5, dataset=digits, space="zca")
    assert by_number.student_recipe.optimizer["lr"] == 0.5


def test_labels_of_two_dimensions_are_soft_unless_one_hot(digits, tmp_path):
    path = tmp_path / "set.pt"
    torch.save({"images": IMAGES, "labels": SOFT}, path)
    logits = import_set(path, dataset=digits, space="normalised")
    assert logits.hash == from_tensors(IMAGES, SOFT.argmax(1), digits, soft_labels=SOFT).hash
    torch.save({"images": IMAGES, "labels": SOFT.softmax(1)}, path)
    probable = import_set(path, dataset=digits, space="normalised")
    assert probable.targets.params == {"form": "probabilities"}
    as_said = import_set(path, dataset=digits, space="normalised", soft="logits")
    assert as_said.targets.params == {"form": "logits"}
    hard = import_set(path, dataset=digits, space="normalised", soft="classes")
    assert hard.hash == from_tensors(IMAGES, SOFT.argmax(1), digits).hash


def test_class_names_of_the_file_decide_what_its_indices_mean(colour, tmp_path):
    names, images, soft = ("bird", "cat", "dog/wolf"), noise(3, 3, 8, 8), noise(3, 3, seed=2)
    wanted = [colour.class_names.index(name) for name in names]
    content = {"images": images, "labels": torch.arange(3), "soft_labels": soft}
    torch.save(content | {"class_names": list(names)}, tmp_path / "a.pt")
    torch.save(content, tmp_path / "b.pt")
    stated = import_set(tmp_path / "a.pt", dataset=colour, space="pixel")
    told = import_set(tmp_path / "b.pt", dataset=colour, space="pixel", class_names=names)
    assert stated.hash == told.hash and stated.classes.tolist() == wanted
    columns = stated.targets.tensors["labels"]
    assert all(torch.equal(columns[:, place], soft[:, k]) for k, place in enumerate(wanted))
    refused("class names", tmp_path / "b.pt", dataset=colour, space="pixel", class_names=("cat", "dog", "bird"))


def test_files_that_cannot_be_understood_are_refused_in_one_line(digits, tmp_path):
    def file(value, name="set.pt"):
        torch.save(value, tmp_path / name)
        return tmp_path / name

    how = {"dataset": digits, "space": "normalised"}
    refused("no such file", tmp_path / "none.pt", **how)
    refused(r"\.pt, \.pth, \.npz", file(IMAGES, "set.bin"), **how)
    refused("no labels", file(IMAGES), **how)
    refused("'pictures', 'labels'", file({"pictures": IMAGES, "labels": CLASSES}), **how)
    refused("images and x could all be", file({"images": IMAGES, "x": IMAGES, "y": CLASSES}), **how)
    refused("holds 2 sets", file({"data": [[IMAGES, CLASSES], [IMAGES, CLASSES]]}), **how)
    refused("no tensor", file({"images": "here", "labels": CLASSES}), **how)
    refused("one number", file({"images": IMAGES, "labels": CLASSES, "lr": torch.ones(3)}), **how)
    refused(r"\[10, 9\]", file({"images": IMAGES, "labels": SOFT[:, :9]}), **how)
    refused("says that its images are in zca", file({"images": IMAGES, "labels": CLASSES, "space": "zca"}), **how)
    refused("unknown space 'norm'", file([IMAGES, CLASSES]), dataset=digits, space="norm")
    refused("unknown form", file([IMAGES, CLASSES]), dataset=digits, space="pixel", soft="one-hot")
    refused("only tensors and plain values", file({"images": IMAGES, "labels": CLASSES, "by": Path("x")}), **how)
    whole = file([IMAGES, CLASSES]).read_bytes()
    (tmp_path / "set.pt").write_bytes(whole[: len(whole) // 2])
    refused("only tensors and plain values", tmp_path / "set.pt", **how)
    np.save(tmp_path / "set.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    refused("not a readable file of arrays", tmp_path / "set.npy", **how)
    with (tmp_path / "big.pt").open("wb") as sparse:
        sparse.truncate(LIMIT + 1)
    refused("at most", tmp_path / "big.pt", **how)


def folder_of(root, names, size=(8, 8), mode="RGB"):
    for value, name in enumerate(names):
        (root / name).mkdir(parents=True)
        Image.new(mode, size, (40 * value, 1, 2) if mode == "RGB" else 40 * value).save(root / name / "one.png")
    return root


@pytest.mark.parametrize("names", [["0000", "0001", "0002"], ["new000", "new001", "new002"]])
def test_class_folders_by_index(colour, tmp_path, names):
    made = import_set(folder_of(tmp_path / "set", names), dataset=colour, space="normalised", lr=0.1)
    assert made.codec == "uint8" and made.classes.tolist() == [0, 1, 2] and made.space.kind == "normalised"
    assert made.images[:, :, 3, 4].tolist() == [[0, 1, 2], [40, 1, 2], [80, 1, 2]]
    assert made.student_recipe is not None


def test_class_folders_by_name_follow_the_names_not_their_order(colour, tmp_path):
    plain = replace(colour, class_names=("cat", "dog", "bird"))
    made = import_set(folder_of(tmp_path / "set" / "train", ["bird", "cat", "dog"]), dataset=plain, space="pixel")
    by_class = {int(c): int(image[0, 0, 0]) for c, image in zip(made.classes, made.images, strict=True)}
    assert by_class == {2: 0, 0: 40, 1: 80}


def test_folders_that_do_not_fit_are_refused(colour, digits, tmp_path):
    how = {"dataset": colour, "space": "pixel"}
    refused("9 x 8 pixels, noise has 8 x 8", folder_of(tmp_path / "a", ["0", "1", "2"], (9, 8)), **how)
    refused("'wolf' is no class", folder_of(tmp_path / "b", ["cat", "wolf"]), **how)
    refused("0 to 2, each once", folder_of(tmp_path / "c", ["0", "1", "3"]), **how)
    refused("no image of 1 of the 3", folder_of(tmp_path / "d", ["0", "1"]), **how)
    refused("needs gray", folder_of(tmp_path / "e", [str(c) for c in range(10)]), dataset=digits, space="pixel")
    (tmp_path / "f").mkdir()
    refused("no class folders", tmp_path / "f", **how)
    (folder_of(tmp_path / "g", ["0", "1", "2"]) / "1" / "one.png").write_bytes(b"no image")
    refused("cannot read image", tmp_path / "g", **how)
    refused("give no labels", tmp_path / "a", tmp_path / "labels.pt", **how)


def float_sets(digits):
    recipe = StudentRecipe(network="convnet-d2", optimizer={"name": "sgd", "lr": 0.3}, epochs=7, batch=5)
    soft = Targets("soft", {"form": "logits"}, {"labels": SOFT.half()})
    plain = from_tensors(IMAGES, CLASSES, digits, space="zca")
    by_labels = recipe.model_copy(update={"labels": "targets", "loss": {"name": "kl", "temperature": 4.0}})
    return [
        plain,
        from_tensors(IMAGES, CLASSES, digits, soft_labels=SOFT, syn_lr=0.1),
        from_tensors(IMAGES, CLASSES, digits, soft_labels=torch.eye(10), soft_form="probabilities"),
        replace(plain, student_recipe=recipe),
        replace(plain, student_recipe=by_labels, targets=soft),
    ]


@pytest.mark.parametrize("name", ["set.pt", "set.npz"])
@pytest.mark.parametrize("which", range(5))
def test_export_and_import_give_the_same_hash(digits, tmp_path, name, which):
    synset = float_sets(digits)[which]
    out = export_set(synset, digits, tmp_path / name)
    assert import_set(out, dataset=digits, space=synset.space.kind).hash == synset.hash
    assert [path.name for path in out.parent.iterdir() if path.is_file()] == [name]


def test_an_exported_pt_is_read_by_anyone(digits, tmp_path):
    export_set(float_sets(digits)[1], digits, tmp_path / "set.pt")
    found = torch.load(tmp_path / "set.pt", weights_only=True)
    assert torch.equal(found["images"], IMAGES) and torch.equal(found["labels"], CLASSES)
    assert torch.equal(found["soft_labels"], SOFT) and found["syn_lr"] == 0.1
    assert found["space"] == "normalised" and found["class_names"] == list(digits.class_names)


def test_a_set_of_indices_comes_back_as_its_pixels(digits, tmp_path):
    indices = torch.stack([(digits.train.labels == c).nonzero()[0, 0] for c in range(10)])
    synset = replace(float_sets(digits)[0], images=None, indices=indices, space=make_space("normalised", digits))
    export_set(synset, digits, tmp_path / "set.pt")
    made = import_set(tmp_path / "set.pt", dataset=digits, space="normalised")
    assert torch.equal(made.pixels(digits), synset.pixels(digits))


def test_a_folder_holds_the_pixels_rounded_and_clipped(colour, tmp_path):
    images, classes = 2 * noise(9, 3, 8, 8), torch.arange(9) % 3
    synset = from_tensors(images, classes, colour)
    export_set(synset, colour, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out" / "train").iterdir()) == ["0000", "0001", "0002"]
    made = import_set(tmp_path / "out", dataset=colour, space="normalised")
    order = classes.argsort(stable=True)
    wanted = transform_for(synset.space, colour).decode(images[order]).clamp(0, 1) * 255
    assert torch.equal(made.classes, classes[order])
    assert float((made.images.float() - wanted).abs().max()) <= 0.5 + 1e-3


def test_a_folder_of_named_classes_carries_their_names(digits, tmp_path):
    named = replace(digits, class_names=tuple(f"digit {c}" for c in reversed(range(10))))
    synset = from_tensors(IMAGES, CLASSES, named, space="pixel")
    export_set(synset, named, tmp_path / "out", "folder")
    assert (tmp_path / "out" / "train" / "digit 9" / "0000.png").is_file()
    made = import_set(tmp_path / "out", dataset=named, space="pixel")
    rows = {int(c): image for c, image in zip(made.classes, made.images, strict=True)}
    assert all(torch.equal(rows[c], (IMAGES[c].clamp(0, 1) * 255).round().to(torch.uint8)) for c in range(10))


def test_what_cannot_be_exported_leaves_nothing_behind(digits, tmp_path):
    synset = from_tensors(IMAGES, CLASSES, digits)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    (tmp_path / "file").write_text("keep")
    before = sorted(tmp_path.rglob("*"))
    for out, format, match in [
        (tmp_path / "full", "folder", "not an empty folder"),
        (tmp_path / "file", "folder", "not an empty folder"),
        (tmp_path / "full", "pt", "name a file"),
        (tmp_path / "file" / "set.pt", "pt", "cannot create folder"),
        (tmp_path / "set.zip", "zip", "unknown format"),
    ]:
        with pytest.raises(UsageError, match=match):
            export_set(synset, digits, out, format)
    with pytest.raises(UsageError, match="views"):
        export_set(replace(synset, views=Views("tiles")), digits, tmp_path / "set.pt")
    assert sorted(tmp_path.rglob("*")) == before
