"""Large image folders under fixed names: Tiny-ImageNet, ImageNet-1K, its 10-class subsets, ImageNet-21K-P, Places365.

They are read where they were unpacked in `data_dir()` and never downloaded. Geometry as in `images.py`.
"""

from dataclasses import dataclass
from pathlib import Path

from ddbench.data.dataset import Dataset, DatasetCard
from ddbench.data.images import MEAN, STD, file_split
from ddbench.data.listing import File, Listing, class_folders, listed
from ddbench.errors import UsageError
from ddbench.settings import data_dir


@dataclass(frozen=True)
class FolderSet:
    """Constants of one data set: where it lies, how it is cut, how many classes and images it must have.

    `classes` is what the folder must hold; `train` and `test` are checked unless None. `subset` lists class indices
    (into the sorted folder names) in label order.
    """

    title: str
    folder: str
    page: str
    layout: str
    classes: int
    side: int
    train: int | None
    test: int | None
    subset: tuple[int, ...] = ()


_ILSVRC = "https://www.image-net.org/download.php"
_WNIDS = "train/<wnid>/*.JPEG and val/<wnid>/*.JPEG, all 1,000 wnid folders in both"


def _subset(title: str, *classes: int) -> FolderSet:
    return FolderSet(title, "imagenet-1k", _ILSVRC, _WNIDS, 1000, 128, None, 500, classes)


# class indices: those of MTT's repository, in its order
SETS: dict[str, FolderSet] = {
    "tiny-imagenet": FolderSet(
        "Tiny-ImageNet-200", "tiny-imagenet-200", "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        "train/<wnid>/images/*.JPEG and val/images/*.JPEG with val/val_annotations.txt (or val/<wnid>/*.JPEG)",
        200, 64, 100_000, 10_000,
    ),
    "imagenette": _subset("ImageNette", 0, 217, 482, 491, 497, 566, 569, 571, 574, 701),
    "imagewoof": _subset("ImageWoof", 193, 182, 258, 162, 155, 167, 159, 273, 207, 229),
    "imagemeow": _subset("ImageMeow", 281, 282, 283, 284, 285, 291, 292, 290, 289, 287),
    "imagesquawk": _subset("ImageSquawk", 84, 130, 88, 144, 145, 22, 96, 9, 100, 89),
    "imagefruit": _subset("ImageFruit", 953, 954, 949, 950, 951, 957, 952, 945, 943, 948),
    "imageyellow": _subset("ImageYellow", 309, 986, 954, 951, 987, 779, 599, 291, 72, 11),
    "imagenet-1k": FolderSet("ImageNet-1K", "imagenet-1k", _ILSVRC, _WNIDS, 1000, 224, 1_281_167, 50_000),
    "imagenet-21k-p": FolderSet(
        "ImageNet-21K-P (Winter 21)", "imagenet-21k-p", _ILSVRC,
        "train/<wnid>/*.JPEG and val/<wnid>/*.JPEG, as the processing scripts of "
        "https://github.com/Alibaba-MIIL/ImageNet21K leave them (10,450 wnid folders in both)",
        10_450, 224, None, None,
    ),
    "places365": FolderSet(
        "Places365-Standard", "places365", "http://places2.csail.mit.edu/download.html",
        "train/<class>/*.jpg and val/<class>/*.jpg (the easy directory structure; 365 class folders in both)",
        365, 224, 1_803_460, 36_500,
    ),
}  # fmt: skip


def describe(name: str) -> DatasetCard:
    """Card of one of `SETS`; looks only whether its folder is there."""
    facts = SETS[name]
    root = data_dir() / facts.folder
    available = (root / "train").is_dir() and (root / "val").is_dir()
    how = "its files are there" if available else _how_to_get(facts, root)
    classes = len(facts.subset) or facts.classes
    return DatasetCard(name, facts.title, classes, 3, facts.side, facts.train, facts.test, available, how)


def load(name: str) -> Dataset:
    """Read one of `SETS` from `data_dir()`; resident at 64 and 128 px, streamed at 224.

    UsageError: the folder is missing or incomplete (what to download, where to put it).
    """
    facts = SETS[name]
    return load_folder_set(name, facts, data_dir() / facts.folder)


def load_folder_set(name: str, facts: FolderSet, root: Path) -> Dataset:
    """Read the data set that lies at `root`; `test` is its validation folder."""
    if not ((root / "train").is_dir() and (root / "val").is_dir()):
        raise UsageError(f"data set {name} is not in {root}: {_how_to_get(facts, root)}")
    folders = class_folders(root / "train")
    _check_count(root / "train", "class folders", len(folders), facts.classes, facts)
    chosen = tuple(folders[index] for index in facts.subset) or folders
    train, test = listed(root / "train", chosen, side=facts.side), _validation(root / "val", chosen, facts)
    for listing, count in ((train, facts.train), (test, facts.test)):
        if count is not None:
            _check_count(listing.root, "images", len(listing), count, facts)
    splits = (file_split(listing, side=facts.side, channels=3) for listing in (train, test))
    return Dataset(name, _class_names(chosen, facts), 3, facts.side, True, MEAN, STD, *splits)


def _validation(split: Path, classes: tuple[str, ...], facts: FolderSet) -> Listing:
    if (split / "val_annotations.txt").is_file() and (split / "images").is_dir():
        return annotated_split(split, classes)
    absent = set(classes) - set(class_folders(split))
    if absent:
        raise UsageError(f"{split} has no folder {min(absent)} ({len(absent)} absent): expected {facts.layout}")
    return listed(split, classes, side=facts.side)


def annotated_split(split: Path, classes: tuple[str, ...]) -> Listing:
    """List Tiny-ImageNet's original validation folder: one `images` folder, classes in val_annotations.txt.

    Each line is "file<TAB>wnid<TAB>box...". The order is that of class folders: by class, then by file name.
    """
    annotations = split / "val_annotations.txt"
    files: list[File] = []
    for number, line in enumerate(annotations.read_text().splitlines(), start=1):
        fields = line.split("\t")
        if len(fields) < 2 or fields[1] not in classes:
            raise UsageError(f"{annotations} line {number}: expected a file name, a tab and a class folder of train")
        try:
            stat = (split / "images" / fields[0]).stat()
        except OSError as error:
            raise UsageError(
                f"{annotations} line {number}: image {fields[0]} is missing in {split / 'images'}"
            ) from error
        files.append(File(f"images/{fields[0]}", classes.index(fields[1]), stat.st_size, stat.st_mtime_ns))
    return Listing.of(split, sorted(files, key=lambda file: (file.label, file.name)))


def _class_names(folders: tuple[str, ...], facts: FolderSet) -> tuple[str, ...]:
    """Words for the ten classes of a subset (torchvision carries the 1,000 in order), else the folders' names."""
    if not facts.subset:
        return folders
    from torchvision.models import ResNet18_Weights

    words = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    return tuple(words[index] for index in facts.subset)


def _check_count(where: Path, what: str, count: int, expected: int, facts: FolderSet) -> None:
    if count != expected:
        raise UsageError(f"{where} has {count:,} {what} instead of {expected:,}: unpack it again as {facts.layout}")


def _how_to_get(facts: FolderSet, root: Path) -> str:
    return (
        f"download it from {facts.page} and unpack it so that {root} holds {facts.layout} "
        "(DDBENCH_DATA names another folder of data sets)"
    )
