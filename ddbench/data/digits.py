"""Embedded default: scikit-learn's 1,797 handwritten digits of 8x8 pixels; no network, no files."""

from ddbench.data.dataset import Dataset, DatasetCard, channel_statistics, memory_split
from ddbench.hashing import digest

TRAIN, TEST = 1438, 359  # what the split gives; a test checks it


def describe(name: str) -> DatasetCard:
    """Card of `digits`."""
    how = "comes with scikit-learn: nothing to download"
    return DatasetCard(name, "Optical digits (scikit-learn)", 10, 1, 8, TRAIN, TEST, True, how)


def load(name: str) -> Dataset:
    """`digits`: grey values 0..16 scaled to round(v * 255 / 16), a fixed stratified 80/20 split.

    Of each class the fifth whose images come first in the order of SHA-256 of their index is the test split, so
    the split depends on no generator of any library. Mean and std are computed from train.
    """
    import numpy as np
    import torch
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy(np.rint(bunch.images * 255 / 16).astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    held = torch.zeros(len(labels), dtype=torch.bool)
    held[held_out(labels.tolist())] = True
    train, test = memory_split(pixels[~held], labels[~held]), memory_split(pixels[held], labels[held])
    mean, std = channel_statistics(train.read())
    return Dataset(name, tuple("0123456789"), 1, 8, False, mean, std, train, test)


def held_out(labels: list[int]) -> list[int]:
    """Indices of the test split: of each class round(n / 5) images, chosen by a fixed key."""
    chosen: list[int] = []
    for label in sorted(set(labels)):
        members = [index for index, value in enumerate(labels) if value == label]
        members.sort(key=lambda index: digest(["digits-split", index]))
        chosen += members[: round(len(members) / 5)]
    return sorted(chosen)
