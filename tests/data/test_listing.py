"""The list of a split's files: in few bytes, with the hashes that it always had; kept in the cache while it holds."""

import os
import shutil

import pytest
import torch
from image_folders import load, write_folder
from PIL import Image

from ddbench import hashing
from ddbench.data import images, listing
from ddbench.data.listing import File, Listing, Names, class_folders, indexed_split, list_split
from ddbench.data.registry import describe
from ddbench.errors import CannotWrite, UsageError
from ddbench.hashing import digest, digest_of_parts, list_json
from ddbench.settings import cache_dir

SIDE = 130


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """A folder that was written just now counts as one that has come to rest."""
    monkeypatch.setattr(listing, "SETTLED", -60.0)


@pytest.fixture
def pets(tmp_path):
    """Two classes of three images for training and two for the test, 140 x 150 px each."""
    write_folder(tmp_path / "pets", shape=(140, 150, 3), toml=f"side = {SIDE}\n")
    return tmp_path / "pets"


def kept(root):
    """The names in the listing of train, from the cache or not."""
    return [*indexed_split(root / "train", ("cat", "dog")).names]


def lists_nothing(monkeypatch):
    monkeypatch.setattr(listing, "_files", lambda *a: pytest.fail("listed again"))


@pytest.mark.parametrize("count", [0, 1, 3, 4, 8, 9])
def test_a_long_list_is_hashed_in_parts(monkeypatch, count):
    monkeypatch.setattr(hashing, "PART", 4)
    rows = [[f'naïve "{i}"\\', i, None] for i in range(count)]
    parts = ['{"a":1,"rows":', *list_json(iter(rows)), ',"z":[]}']
    assert digest_of_parts(parts) == digest({"z": [], "rows": rows, "a": 1})


def test_hashes_are_those_of_the_whole_list(tmp_path, monkeypatch):
    monkeypatch.setattr(hashing, "PART", 2)
    monkeypatch.setattr(listing, "AT_ONCE", 3)
    names = ["cat/0.png", 'cat/a "b".png', "cat/ünï\u2603.png", "dog/back\\slash.png", "dog/deep/er.png"]
    labels, stats = [0, 0, 0, 1, 1], [(10 + i, 1_700_000_000_123_456_789 + i) for i in range(5)]
    found = Listing.of(tmp_path, (File(*row) for row in zip(names, labels, *zip(*stats, strict=True), strict=True)))
    assert [*found.names] == names == [found.names[i] for i in range(5)] and len(found) == 5
    assert found.path(4) == tmp_path / "dog" / "deep" / "er.png"
    files = [[n, s[0], label] for n, s, label in zip(names, stats, labels, strict=True)]
    wanted = digest({"channels": 3, "decoder": images.DECODER, "files": files, "side": 224})
    assert images._contents_hash(found, 224, 3) == wanted
    assert images._decoded_key(found, 64, 1) == digest([images.DECODER, names, labels, stats, 64, 1])
    split = images.streamed_split(found, side=224, channels=3)
    assert split.hash == wanted and split.labels.tolist() == labels and split.labels.dtype == torch.int64


def test_files_come_in_order_of_class_and_name_at_any_depth(tmp_path):
    for name in ("dog/b.png", "dog/B.JPG", "dog/a/z.png", "dog/.hidden/x.png", "cat/1.png", "dog/.y.png", "dog/n.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * len(name))
    found = list_split(tmp_path, ("dog", "cat"))
    assert [*found.names] == ["dog/B.JPG", "dog/a/z.png", "dog/b.png", "cat/1.png"]
    assert found.labels.tolist() == [0, 0, 0, 1] and found.sizes.tolist() == [9, 11, 9, 9]
    times = [(tmp_path / name).stat().st_mtime_ns for name in found.names]
    assert [*found.stats()] == [*zip(found.sizes.tolist(), times, strict=True)]
    assert class_folders(tmp_path) == ("cat", "dog")


def test_few_bytes_for_each_file():
    found = Listing.of(".", (File(f"n01440764/n01440764_{i:05d}.JPEG", 0, 110_000, i) for i in range(1000)))
    held = len(found.names.text) + sum(a.nbytes for a in (found.names.ends, found.labels, found.sizes, found.mtimes))
    assert held / 1000 == 30 + 4 * 8


def test_a_name_that_is_no_utf8_is_refused(tmp_path):
    """Of an image, of a folder among them (an empty one too), of a class."""
    odd = os.fsdecode(b"\xff")
    (tmp_path / "cat").mkdir(), (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "a.png").touch()
    try:
        (tmp_path / "cat" / f"{odd}.png").touch()
    except OSError:
        pytest.skip("this file system has no such names")
    (tmp_path / "dog" / odd).mkdir()
    with pytest.raises(UsageError, match=r"image 'cat/\\udcff\.png' .* no UTF-8"):
        list_split(tmp_path, ("cat",))
    for call in (list_split, indexed_split):
        with pytest.raises(UsageError, match=r"folder 'dog/\\udcff' .* no UTF-8"):
            call(tmp_path, ("dog",))
    (tmp_path / odd).mkdir()
    with pytest.raises(UsageError, match=r"class folder '\\udcff' .* no UTF-8"):
        class_folders(tmp_path)


def test_a_second_load_reads_the_index_and_gives_the_same(pets, monkeypatch):
    first = load(pets)
    assert not first.train.resident and len([*(cache_dir() / "index").glob("*.safetensors")]) == 2
    with monkeypatch.context() as context:
        lists_nothing(context)
        second = load(pets)
        with pytest.raises(pytest.fail.Exception, match="listed again"):
            list_split(pets / "train", ("cat", "dog"))
    assert (second.id, second.train.hash, second.test.hash) == (first.id, first.train.hash, first.test.hash)
    assert second.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    places = torch.tensor([5, 0])
    assert torch.equal(second.train.read(places), first.train.read(places))
    assert describe(f"folder:{pets}").train == 6


def test_images_that_are_decoded_once_are_listed_every_time(pets):
    (pets / "dataset.toml").write_text("side = 16\n")
    first = load(pets)
    assert first.train.resident and not (cache_dir() / "index").exists()
    Image.new("RGB", (140, 150)).save(pets / "train" / "cat" / "1.png")  # in place
    assert load(pets).id != first.id


def test_what_comes_goes_or_is_renamed_is_noticed(pets):
    def after(change):
        change()
        found = kept(pets)
        assert found == [*list_split(pets / "train", ("cat", "dog")).names]
        return found

    cat, dog = pets / "train" / "cat", pets / "train" / "dog"
    assert len(kept(pets)) == 6
    assert "cat/9.png" in after(lambda: shutil.copy(cat / "0.png", cat / "9.png"))
    assert "cat/9.png" not in after((cat / "9.png").unlink)
    assert "dog/7.png" in after(lambda: (dog / "0.png").rename(dog / "7.png"))
    assert len(after((dog / "deep").mkdir)) == 6
    assert "dog/deep/0.png" in after(lambda: shutil.copy(cat / "0.png", dog / "deep" / "0.png"))
    assert "dog/deep/0.png" not in after(lambda: shutil.rmtree(dog / "deep"))


def test_a_folders_time_that_is_set_back_does_not_hide_a_change(pets):
    cat = pets / "train" / "cat"
    assert len(kept(pets)) == 6
    before = cat.stat()
    shutil.copy(cat / "0.png", cat / "9.png")
    os.utime(cat, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert len(kept(pets)) == 7


def test_a_folder_that_changed_just_now_is_not_kept(pets, monkeypatch):
    monkeypatch.setattr(listing, "SETTLED", 60.0)
    assert len(kept(pets)) == 6 and not (cache_dir() / "index").exists()


def test_other_classes_or_another_place_have_another_index(pets, tmp_path):
    assert len(kept(pets)) == 6
    assert [*indexed_split(pets / "train", ("dog",)).names] == ["dog/0.png", "dog/1.png", "dog/2.png"]
    shutil.copytree(pets, tmp_path / "copy")
    assert indexed_split(tmp_path / "copy" / "train", ("cat", "dog")).root == tmp_path / "copy" / "train"
    assert len([*(cache_dir() / "index").glob("*.safetensors")]) == 3
    (tmp_path / "link").symlink_to(pets)
    assert len(kept(tmp_path / "link")) == 6 and len([*(cache_dir() / "index").glob("*.safetensors")]) == 3


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other"])
def test_a_damaged_index_is_made_again(pets, caplog, damage):
    first = load(pets)
    for entry in (cache_dir() / "index").glob("*.safetensors"):
        content = bytearray(entry.read_bytes())
        content[-1] ^= 255
        other = b"\x02\x00\x00\x00\x00\x00\x00\x00{}"
        entry.write_bytes({"flip": content, "cut": content[:-20], "empty": b"", "other": other}[damage])
    assert load(pets).id == first.id and "damaged" in caplog.text
    caplog.clear()
    assert load(pets).id == first.id and not caplog.text


def test_an_index_that_cannot_be_written_is_said_once_and_loading_goes_on(pets, caplog, monkeypatch):
    def full(path, write):
        raise CannotWrite(f"cannot write {path}: no space left")

    monkeypatch.setattr(listing, "write_with", full)
    assert len(load(pets).train) == 6
    assert caplog.text.count("is not kept") == 2 and "no space left" in caplog.text


def test_an_image_written_again_in_place_is_noticed_when_it_is_read(pets, monkeypatch):
    monkeypatch.setattr(listing, "SAMPLED", 1)  # the first file alone
    first = load(pets)
    Image.new("RGB", (140, 150)).save(pets / "train" / "cat" / "1.png")
    second = load(pets)
    assert second.id == first.id  # as the index has it
    assert second.train.read(torch.tensor([0, 5])).shape == (2, 3, SIDE, SIDE)
    with pytest.raises(UsageError, match=r"cat/1\.png has changed since its folder was listed .*start again"):
        second.train.read(torch.tensor([0, 1]))
    third = load(pets)
    assert third.id != first.id and third.train.read(torch.tensor([1])).sum() == 0


def test_images_written_again_in_place_are_noticed_at_once_where_they_are_many(pets):
    first = load(pets)
    for path in pets.glob("*/*/*.png"):
        Image.new("RGB", (140, 150)).save(path)
    assert load(pets).id != first.id


def test_names_are_found_by_place():
    names = Names.of(["", "ä", "", "bc"])
    assert len(names) == 4 and [names[i] for i in range(4)] == [*names] == ["", "ä", "", "bc"]
