"""Data sets with fixed names: the embedded digits, torchvision's small ones, the ImageNet family."""

import gzip
import hashlib
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command import ddbench
from PIL import Image

from ddbench.data import imagenet, small
from ddbench.data.dataset import channel_statistics, memory_split
from ddbench.data.registry import dataset_names, describe, load_dataset
from ddbench.errors import UsageError


def write_image(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="PNG")


def test_digits_pixels_and_split_by_definition():
    from sklearn.datasets import load_digits

    bunch, digits = load_digits(), load_dataset("digits")
    expected = {}
    for image, label in zip(bunch.images, bunch.target, strict=True):
        pixels = bytes(round(v * 255 / 16) for v in image.flatten())
        expected[pixels] = int(label)
    assert len(expected) == 1797  # every image is another one, so pixels identify it
    seen = []
    for split in (digits.train, digits.test):
        assert split.read().dtype == torch.uint8 and split.read().shape == (len(split), 1, 8, 8)
        for image, label in zip(split.read(), split.labels.tolist(), strict=True):
            pixels = bytes(image.flatten().tolist())
            assert expected[pixels] == label
            seen.append(pixels)
    assert sorted(seen) == sorted(expected)  # disjoint, and nothing is left out
    counts = np.bincount(bunch.target)
    assert torch.bincount(digits.test.labels).tolist() == [round(count / 5) for count in counts.tolist()]
    card = describe("digits")
    assert (card.train, card.test) == (len(digits.train), len(digits.test))


def test_digits_split_is_fixed_by_sha256_alone():
    from sklearn.datasets import load_digits

    target, digits = load_digits().target.tolist(), load_dataset("digits")
    held = set()
    for label in range(10):
        members = [index for index in range(1797) if target[index] == label]
        members.sort(key=lambda index: hashlib.sha256(f'["digits-split",{index}]'.encode()).hexdigest())
        held |= set(members[: round(len(members) / 5)])
    assert digits.test.labels.tolist() == [target[index] for index in sorted(held)]
    assert digits.train.labels.tolist() == [target[index] for index in range(1797) if index not in held]
    assert load_dataset("digits") is digits


def test_statistics_equal_the_plain_computation():
    pixels = torch.randint(0, 256, (50, 3, 5, 5), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    pixels[:, 2] = 7
    mean, std = channel_statistics(pixels)
    values = pixels.double() / 255
    assert mean == pytest.approx(values.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert std[:2] == pytest.approx(values.std((0, 2, 3), correction=0)[:2].tolist(), abs=1e-12)
    assert std[2] == 1.0


def test_split_reads_indices_in_order_and_hashes_pixels_and_labels():
    pixels = torch.arange(4 * 3 * 2 * 2, dtype=torch.uint8).view(4, 3, 2, 2)
    labels = torch.tensor([0, 1, 0, 1])
    split = memory_split(pixels, labels)
    assert torch.equal(split.read(torch.tensor([3, 1, 3])), pixels[[3, 1, 3]])
    changed = pixels.clone()
    changed[2, 1, 0, 0] += 1
    hashes = {split.hash, memory_split(changed, labels).hash, memory_split(pixels, labels.flip(0)).hash}
    assert len(hashes) == 3 and memory_split(pixels.clone(), labels.clone()).hash == split.hash


def test_cards_need_no_torch():
    code = (
        "import sys; from ddbench.data.registry import dataset_names, describe; [describe(n) for n in dataset_names()];"
        "print([m for m in ('torch', 'torchvision', 'sklearn', 'numpy', 'PIL') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert out.stdout.strip() == "[]"


def test_every_card_says_how_to_get_the_data():
    for name in dataset_names():
        card = describe(name)
        assert card.name == name and card.how_to_get and "\n" not in card.how_to_get
        if not card.available:
            assert "DDBENCH_DATA" in card.how_to_get and "http" in card.how_to_get


def test_unknown_names_and_misplaced_arguments():
    with pytest.raises(UsageError, match="did you mean cifar10"):
        load_dataset("cifar")
    with pytest.raises(UsageError, match="dataset-name"):
        load_dataset("digits", dataset_name="mine")
    with pytest.raises(UsageError, match="unknown data set"):
        describe("imagenet-2k")


def test_a_data_set_of_a_package_is_one_like_ours(toys, tmp_path):
    assert "toy-bars" in dataset_names() and "toyparts" not in sys.modules
    assert describe("toy-bars").title == "Bars" and load_dataset("toy-bars").class_names == ("upright", "level")
    listed = ddbench("datasets", "toy-bars")
    assert listed.exit_code == 0 and "nothing to download" in listed.stdout
    run = ("run", "toy", "--dataset", "toy-bars", "--recipe", "generic", "--ipc", "1", "--seeds", "1")
    done = ddbench(*run, "--protocol", "toy-hard-v1", "--network", "toy-layers-w8", "--results", str(tmp_path / "out"))
    assert done.exit_code == 0, done.stderr
    (record,) = (tmp_path / "out").rglob("*.json")
    assert '"dataset": "toy-bars"' in record.read_text() and '"toy-layers-w8"' in record.read_text()


@pytest.mark.parametrize(
    ("name", "words"), [("toy-no-data", r"load\(name\)"), ("toy-renamed", "calls itself 'toy-bars'")]
)
def test_an_entry_point_that_gives_no_data_set_of_its_name_is_one_line(toys, name, words):
    with pytest.raises(UsageError, match=words) as caught:
        load_dataset(name)
    assert "\n" not in str(caught.value)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_fashion(folder: Path, suffix: str = "") -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 6), ("t10k", 4)):
        arrays[f"{part}-images-idx3-ubyte"] = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{part}-labels-idx1-ubyte"] = generator.integers(0, 10, count, dtype=np.uint8)
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        (folder / f"{name}{suffix}").write_bytes(gzip.compress(idx(array)) if suffix else idx(array))
    return arrays


@pytest.mark.parametrize("debian", [True, False])
def test_fashion_mnist_from_the_debian_package_or_the_data_folder(tmp_path, monkeypatch, debian):
    monkeypatch.setitem(small.SETS, "fashion-mnist", replace(small.SETS["fashion-mnist"], train=6, test=4))
    folder = tmp_path / "package" if debian else tmp_path / "home" / "data" / "FashionMNIST" / "raw"
    monkeypatch.setattr(small, "DEBIAN_FOLDERS", (tmp_path / "nowhere", tmp_path / "package"))
    arrays = write_fashion(folder, ".gz" if debian else "")
    fashion = load_dataset("fashion-mnist")
    assert np.array_equal(fashion.train.read()[:, 0].numpy(), arrays["train-images-idx3-ubyte"])
    assert fashion.test.labels.tolist() == arrays["t10k-labels-idx1-ubyte"].tolist()
    assert (fashion.channels, fashion.side, fashion.flip, len(fashion.class_names)) == (1, 28, True, 10)
    assert describe("fashion-mnist").available


def test_damaged_files_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(small, "DEBIAN_FOLDERS", ())
    raw = tmp_path / "home" / "data" / "FashionMNIST" / "raw"
    write_fashion(raw)  # whole files, but of six images
    with pytest.raises(UsageError, match="damaged"):
        load_dataset("fashion-mnist")
    (raw / "train-images-idx3-ubyte").write_bytes(b"short")
    with pytest.raises(UsageError, match=r"damaged .* FashionMNIST/raw/\{train-images"):
        load_dataset("fashion-mnist")


@pytest.mark.parametrize(("name", "last"), [("cifar10", True), ("svhn", False)])
def test_channels_come_first_whatever_torchvision_stores(tmp_path, monkeypatch, name, last):
    import torchvision.datasets

    images = np.random.default_rng(3).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)

    class Reader:  # the attributes of torchvision's CIFAR10 and SVHN; their files are pinned by MD5 there
        def __init__(self, root, *, download, train=True, split="train"):
            count = 5 if train and split == "train" else 3
            self.data = (images.transpose(0, 2, 3, 1) if last else images)[:count]
            self.targets = self.labels = [0, 9, 1, 8, 2][:count]

    monkeypatch.setitem(small.SETS, name, replace(small.SETS[name], train=5, test=3))
    monkeypatch.setattr(torchvision.datasets, small.SETS[name].reader, Reader)
    for file in small.SETS[name].files:
        (tmp_path / "home" / "data" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "home" / "data" / file).touch()
    dataset = load_dataset(name)
    assert np.array_equal(dataset.train.read().numpy(), images) and dataset.test.labels.tolist() == [0, 9, 1]
    assert dataset.flip == (name == "cifar10") and len(dataset.class_names) == 10


class FakeMnist:
    """Stands in for torchvision's: unpacks what was downloaded, or fails half-way."""

    mirrors, resources, whole = ("https://nowhere.example/",), (("archive", ""),), False

    def __init__(self, root, *, download):
        assert (Path(root) / "MNIST" / "raw" / "archive").exists()
        for name in small.SETS["mnist"].files:
            if not self.whole and "t10k-images" in name:
                (Path(root) / name).write_bytes(b"half")
                raise RuntimeError("archive is cut\nshort")
            (Path(root) / name).write_bytes(b"whole")
        print("noise of a download")


@pytest.fixture
def mnist(monkeypatch):
    """A reader in torchvision's place, and an archive that no server has to be asked for."""
    import torchvision.datasets

    monkeypatch.setattr(torchvision.datasets, "MNIST", FakeMnist)
    monkeypatch.setattr(small, "fetch", lambda path, *urls, **how: (path.parent.mkdir(parents=True), path.touch()))


def test_failed_download_says_what_to_do_and_leaves_nothing(tmp_path, monkeypatch, mnist, capsys):
    with pytest.raises(UsageError, match=r"archive is cut short.*yann\.lecun\.com.*MNIST/raw.*DDBENCH_DATA") as caught:
        load_dataset("mnist")
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "home" / "data").iterdir()] == [".mnist.lock"]
    assert not describe("mnist").available
    monkeypatch.setattr(FakeMnist, "whole", True)
    small._download("mnist", small.SETS["mnist"])
    assert describe("mnist").available
    assert capsys.readouterr().out == ""  # stdout is for data


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "svhn", "cifar10", "cifar100"])
def test_what_is_downloaded_is_what_torchvision_looks_for(name, tmp_path, monkeypatch):
    """Each file has addresses, and an MD5 that torchvision finds wanting in an empty file."""
    from torchvision import datasets

    reader = getattr(datasets, small.SETS[name].reader)
    files = small._archives(small.SETS[name], reader)
    assert all(urls and url.startswith("http") and len(md5) == 32 for urls, _, md5 in files for url in urls)
    asked = []

    def check(path, md5=None):
        asked.append((str(Path(path).relative_to(tmp_path)), md5))
        return True

    monkeypatch.setattr(datasets.utils, "check_integrity", check)
    monkeypatch.setattr(datasets.utils, "extract_archive", lambda *words: None)
    for split in ({"split": "train"}, {"split": "test"}) if name == "svhn" else ({},):
        with pytest.raises((RuntimeError, OSError)):
            reader(tmp_path, download=True, **split)
    assert asked == [(file, md5) for _, file, md5 in files]


def test_a_dry_run_downloads_no_data(tmp_path, mnist):
    for command in (["distill", "random"], ["run", "random"], ["sweep", "--methods", "random"]):
        found = ddbench(*command, "--dataset", "mnist", "--ipc", "1", "--dry-run")
        assert found.exit_code == 2 and "mnist is not here, and a dry run downloads no data: without" in found.stderr
    assert not (tmp_path / "home" / "data").exists()
    with pytest.raises(UsageError, match="cannot download mnist"):  # tried again once the dry run is over
        load_dataset("mnist")


def test_missing_folders_say_what_to_download(tmp_path):
    for name in ("tiny-imagenet", "imagenette", "imagenet-1k", "imagenet-21k-p", "places365"):
        with pytest.raises(UsageError, match=f"{name} is not in {tmp_path}.*https?://.*train/<.*DDBENCH_DATA"):
            load_dataset(name)
    assert not (tmp_path / "home" / "data").exists()


def write_tiny(root: Path, classes: int = 3) -> dict[str, list[np.ndarray]]:
    """Tiny-ImageNet's original layout; returns the validation images per class in order of file name."""
    generator = np.random.default_rng(2)
    wnids = [f"n{label:08}" for label in range(classes)]
    lines, kept = [], {wnid: [] for wnid in wnids}
    for wnid in wnids:
        for number in range(2):
            pixels = generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            write_image(root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", pixels)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("boxes")
    for number in range(classes):
        wnid = wnids[-1 - number]
        kept[wnid].append(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8))
        write_image(root / "val" / "images" / f"val_{number}.JPEG", kept[wnid][-1])
        lines.append(f"val_{number}.JPEG\t{wnid}\t0\t0\t62\t62")
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    return kept


def test_tiny_imagenet_in_its_original_layout_and_in_class_folders(tmp_path):
    root = tmp_path / "home" / "data" / "tiny-imagenet-200"
    facts = replace(imagenet.SETS["tiny-imagenet"], classes=3, train=6, test=3)
    kept = write_tiny(root)
    tiny = imagenet.load_folder_set("tiny-imagenet", facts, root)
    assert tiny.train.labels.tolist() == [0, 0, 1, 1, 2, 2] and tiny.test.labels.tolist() == [0, 1, 2]
    for image, wnid in zip(tiny.test.read(), tiny.class_names, strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), kept[wnid][0])
    for line in (root / "val" / "val_annotations.txt").read_text().splitlines():
        file, wnid = line.split("\t")[:2]
        (root / "val" / wnid).mkdir()
        (root / "val" / "images" / file).rename(root / "val" / wnid / file)
    (root / "val" / "images").rmdir()
    again = imagenet.load_folder_set("tiny-imagenet", facts, root)
    assert (again.train.hash, again.test.hash) == (tiny.train.hash, tiny.test.hash)


def test_incomplete_tiny_imagenet_is_refused(tmp_path):
    root = tmp_path / "home" / "data" / "tiny-imagenet-200"
    write_tiny(root)
    with pytest.raises(UsageError, match="3 class folders instead of 200"):
        load_dataset("tiny-imagenet")
    facts = replace(imagenet.SETS["tiny-imagenet"], classes=3, train=7, test=3)
    with pytest.raises(UsageError, match="6 images instead of 7"):
        imagenet.load_folder_set("tiny-imagenet", facts, root)
    (root / "val" / "images" / "val_1.JPEG").unlink()
    with pytest.raises(UsageError, match=r"line 2: image val_1\.JPEG is missing"):
        imagenet.load_folder_set("tiny-imagenet", facts, root)


def test_imagenet_subset_takes_its_classes_in_order(tmp_path):
    root = tmp_path / "home" / "data" / "imagenet-1k"
    for index in range(1000):
        (root / "train" / f"n{index:04}").mkdir(parents=True)
    ids = imagenet.SETS["imagewoof"].subset
    for index in ids:
        for split in ("train", "val"):
            write_image(root / split / f"n{index:04}" / "a.JPEG", np.full((130, 140, 3), index % 256, np.uint8))
    facts = replace(imagenet.SETS["imagewoof"], test=10)
    woof = imagenet.load_folder_set("imagewoof", facts, root)
    assert woof.train.read().shape == (10, 3, 128, 128)
    assert woof.train.read()[:, 0, 0, 0].tolist() == [index % 256 for index in ids]
    assert woof.class_names[0] == "Australian terrier" and woof.test.labels.tolist() == list(range(10))
