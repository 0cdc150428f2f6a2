"""folder:PATH and the splits made of image files."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from image_folders import load, write_folder
from PIL import Image

from ddbench.data.images import decode_image, file_split, streamed_split
from ddbench.data.listing import class_folders, list_split
from ddbench.data.registry import describe, load_dataset
from ddbench.errors import UsageError


def refused(root: Path, match: str, **more) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        load(root, **more)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("test", ["test", "val"])
def test_pixels_labels_and_statistics_by_definition(tmp_path, test):
    images = write_folder(tmp_path / "pets", test=test)
    (tmp_path / "pets" / "train" / "cat" / ".hidden.png").write_bytes(b"no image")
    (tmp_path / "pets" / "train" / "cat" / "notes.txt").write_text("no image")
    pets = load(tmp_path / "pets")
    assert pets.class_names == ("cat", "dog") and (pets.channels, pets.side, pets.flip) == (3, 6, True)
    assert pets.train.labels.tolist() == [0, 0, 0, 1, 1, 1] and pets.test.labels.tolist() == [0, 0, 1, 1]
    stacked = np.stack([pixels for name, pixels in sorted(images.items()) if name.startswith("train/")])
    assert np.array_equal(pets.train.read().permute(0, 2, 3, 1).numpy(), stacked)
    assert pets.mean == pytest.approx((stacked / 255).mean((0, 1, 2)).tolist())
    assert pets.std == pytest.approx((stacked / 255).std((0, 1, 2)).tolist())
    card = describe(f"folder:{tmp_path / 'pets'}")
    assert (card.name, card.classes, card.channels, card.side, card.train, card.test) == ("pets", 2, 3, 6, 6, 4)


def test_id_is_content_not_place_or_time(tmp_path):
    write_folder(tmp_path / "pets")
    first = load(tmp_path / "pets")
    assert first.id.startswith("pets@") and len(first.id) == len("pets@") + 8
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "pets", tmp_path / "elsewhere" / "pets")
    os.utime(tmp_path / "elsewhere" / "pets" / "train" / "cat" / "0.png", (1, 1))
    assert load(tmp_path / "elsewhere" / "pets").id == first.id
    assert load(tmp_path / "elsewhere" / "pets", dataset_name="mine").id == first.id.replace("pets", "mine")
    changed = tmp_path / "elsewhere" / "pets" / "test" / "dog" / "1.png"
    pixels = np.asarray(Image.open(changed)).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(changed)
    assert load(tmp_path / "elsewhere" / "pets").id != first.id


def test_second_load_reads_the_decoded_cache(tmp_path, monkeypatch):
    write_folder(tmp_path / "pets")
    cold = load(tmp_path / "pets")
    monkeypatch.setattr("ddbench.data.images.decode", lambda *a: pytest.fail("decoded again"))
    warm = load(tmp_path / "pets")
    assert warm.id == cold.id and torch.equal(warm.train.read(), cold.train.read())


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_damaged_cache_entry_is_rebuilt(tmp_path, caplog, damage):
    write_folder(tmp_path / "pets")
    cold = load(tmp_path / "pets")
    expected = cold.train.read().clone()
    for entry in (tmp_path / "home" / "cache" / "decoded").glob("*.safetensors"):
        content = bytearray(entry.read_bytes())
        content[-1] ^= 255
        entry.unlink()  # the old mapping stays as it was
        entry.write_bytes({"flip": bytes(content), "cut": bytes(content[:-20]), "empty": b""}[damage])
    again = load(tmp_path / "pets")
    assert again.id == cold.id and torch.equal(again.train.read(), expected)
    assert "damaged" in caplog.text
    caplog.clear()
    assert load(tmp_path / "pets").id == cold.id and not caplog.text


def test_streamed_and_resident_pixels_agree(tmp_path):
    write_folder(tmp_path, shape=(7, 9, 3))
    listing = list_split(tmp_path / "train", class_folders(tmp_path / "train"))
    resident = file_split(listing, side=6, channels=3)
    streamed = streamed_split(listing, side=6, channels=3)
    chosen = torch.tensor([4, 0, 4])
    assert resident.resident and not streamed.resident
    assert torch.equal(streamed.read(chosen), resident.read(chosen))
    assert torch.equal(streamed.read(), resident.read())
    assert streamed.read(torch.tensor([], dtype=torch.int64)).shape == (0, 3, 6, 6)
    assert streamed_split(listing, side=5, channels=3).hash != streamed.hash


def test_large_images_are_streamed_at_224(tmp_path):
    write_folder(tmp_path / "big", shape=(150, 180, 3))
    big = load(tmp_path / "big")
    assert big.side == 224 and not big.train.resident and big.mean == (0.485, 0.456, 0.406)
    assert big.train.read(torch.tensor([5])).shape == (1, 3, 224, 224)
    first = big.id
    os.utime(tmp_path / "big" / "train" / "cat" / "0.png", (1, 1))
    assert load(tmp_path / "big").id == first


def test_geometry_short_side_then_centre(tmp_path):
    pixels = np.arange(8 * 14 * 3, dtype=np.uint8).reshape(8, 14, 3)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert np.array_equal(decode_image(tmp_path / "wide.png", 8, 3), pixels[:, 3:11].transpose(2, 0, 1))
    image = Image.fromarray(pixels).resize((7, 4), Image.Resampling.BILINEAR)  # torchvision: int(4 * 14 / 8) = 7
    left = round((7 - 4) / 2)
    expected = np.asarray(image)[:, left : left + 4].transpose(2, 0, 1)
    assert np.array_equal(decode_image(tmp_path / "wide.png", 4, 3), expected)


def test_geometry_equals_torchvisions(tmp_path):
    from torchvision.transforms import CenterCrop, Resize

    generator = np.random.default_rng(5)
    for number, (height, width) in enumerate([(300, 401), (333, 257), (225, 224)]):
        path = tmp_path / f"{number}.png"
        image = Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
        image.save(path)
        for short, side in ((256, 224), (64, 64)):
            expected = np.asarray(CenterCrop(side)(Resize(short)(image))).transpose(2, 0, 1)
            assert np.array_equal(decode_image(path, side, 3), expected)


def test_grey_only_if_every_probed_image_is(tmp_path):
    write_folder(tmp_path / "grey", shape=(6, 6))
    grey = load(tmp_path / "grey")
    assert grey.channels == 1 and grey.train.read().shape == (6, 1, 6, 6)
    Image.new("RGB", (6, 6), (9, 8, 7)).save(tmp_path / "grey" / "test" / "dog" / "2.png")
    mixed = load(tmp_path / "grey")
    assert mixed.channels == 3 and mixed.test.read()[-1, :, 0, 0].tolist() == [9, 8, 7]
    assert torch.equal(mixed.train.read(), grey.train.read().expand(-1, 3, -1, -1))
    with pytest.raises(UsageError, match="in a grey data set"):
        decode_image(tmp_path / "grey" / "test" / "dog" / "2.png", 6, 1)


def test_palette_and_cmyk_images_are_read_and_16_bits_refused(tmp_path):
    red = Image.new("RGB", (6, 6), (250, 0, 0))
    red.convert("P").save(tmp_path / "p.png", transparency=b"\x00\x80")
    red.convert("CMYK").save(tmp_path / "c.jpg")
    for name in ("p.png", "c.jpg"):
        assert decode_image(tmp_path / name, 6, 3)[:, 0, 0].tolist() == pytest.approx([250, 0, 0], abs=6)
    Image.fromarray(np.full((6, 6), 40000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(UsageError, match=r"deep\.png has mode I;16"):
        decode_image(tmp_path / "deep.png", 6, 3)


def test_dataset_toml(tmp_path):
    root = tmp_path / "pets"
    text = 'name = "cats-and-dogs"\ntitle = "Pets"\nside = 4\nflip = false\nmean = [0.5, 0.5, 0]\nstd = [1, 0.2, 0.3]\n'
    write_folder(root, toml=text)
    pets = load(root)
    assert pets.id.startswith("cats-and-dogs@") and (pets.side, pets.flip) == (4, False)
    assert (pets.mean, pets.std) == ((0.5, 0.5, 0.0), (1.0, 0.2, 0.3))
    assert describe(f"folder:{root}").title == "Pets"
    assert load(root, dataset_name="other").id.startswith("other@")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("sides = 4", "sides: unknown key; its keys are name"),
        ("side = true", "side: .*integer"),
        ('flip = "no"', "flip: .*boolean"),
        ("mean = [0.5, 0.5, 0.5]", "together"),
        ("mean = [0.5]\nstd = [0.5]", "mean has 1 values"),
        ("mean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0]", r"std\.2: .*greater"),
        ('name = "a/b"', "cannot name"),
        ("side = ", "dataset.toml"),
    ],
)
def test_bad_dataset_toml(tmp_path, text, match):
    write_folder(tmp_path / "pets", toml=text)
    refused(tmp_path / "pets", match)


def test_bad_folders(tmp_path):
    refused(tmp_path / "nowhere", "no folder")
    root = tmp_path / "pets"
    (root / "train").mkdir(parents=True)
    refused(root, "no folder val")
    (root / "val").mkdir()
    refused(root, "0 class folders")
    write_folder(root, test="val")
    refused(root, "cannot name", dataset_name="../up")
    (root / "val" / "emu").mkdir()
    refused(root, "class 'emu' is in val but not in train")
    (root / "train" / "emu").mkdir()
    refused(root, "no images in class folder .*emu")
    shutil.rmtree(root / "val" / "emu")
    refused(root, "class 'emu' is in train but not in val")
    with pytest.raises(UsageError, match="needs a path"):
        load_dataset("folder:")


@pytest.mark.parametrize("keep", [0, 60])
def test_unreadable_image_is_named(tmp_path, keep):
    write_folder(tmp_path / "pets")
    broken = tmp_path / "pets" / "test" / "dog" / "1.png"
    broken.write_bytes(broken.read_bytes()[:keep])
    refused(tmp_path / "pets", r"cannot read image .*dog/1\.png")
    assert (
        len(list((tmp_path / "home" / "cache" / "decoded").glob("*.safetensors"))) <= 1
    )  # train at most; no half of test
