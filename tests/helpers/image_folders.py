"""Small folders of images, as data sets."""

from pathlib import Path

import numpy as np
from PIL import Image

from ddbench.data.registry import _load, load_dataset


def write_folder(root: Path, *, shape=(6, 6, 3), classes=("cat", "dog"), test="test", toml="") -> dict[str, np.ndarray]:
    """Three PNGs per class in train, two in test; returns them by "split/class/file"."""
    generator = np.random.default_rng(0)
    images = {}
    for split, count in (("train", 3), (test, 2)):
        for name in classes:
            for number in range(count):
                pixels = generator.integers(0, 256, shape, dtype=np.uint8)
                images[f"{split}/{name}/{number}.png"] = pixels
                (root / split / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    if toml:
        (root / "dataset.toml").write_text(toml)
    return images


def load(root: Path, **more):
    """The data set of a folder, as another process would load it."""
    _load.cache_clear()
    return load_dataset(f"folder:{root}", **more)
