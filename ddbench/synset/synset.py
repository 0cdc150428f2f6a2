"""SynSet: a distilled set with everything that a student needs, and nothing that must be guessed.

Stored as safetensors with a JSON header, never a pickle. The hash covers all but provenance.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open

from ddbench.data.dataset import Dataset
from ddbench.data.spaces import Space, transform_for
from ddbench.errors import UsageError, first_problem
from ddbench.hashing import canonical_json, tensors_digest
from ddbench.schema import Hash, Number
from ddbench.system.files import write_tensors
from ddbench.training.recipe import StudentRecipe

FORMAT = "ddbench-synset"
VERSION = 1
CODECS = ("float", "uint8", "jpeg75")
EXTRA_DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
"""Types that tensors of targets and views may have."""
ODD = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)
"""Exceptions that reading a stranger's header can raise besides our own."""
MAX_IMAGES = 20_000_000
MAX_CLASSES = 100_000
MAX_SIDE = 2048


class Provenance(BaseModel):
    """Origin and cost of a set; not part of its hash.

    Attributes:
        method: name of the method, or "imported".
        recipe: the resolved recipe, as plain data.
        recipe_hash: its hash.
        seed: synthesis seed.
        seconds: wall-clock seconds of the distillation.
        peak_memory: peak memory in bytes above the process's baseline (CPU) or of the allocator (CUDA).
        environment: device, threads, precision, versions, CPU model.
        teachers: hash -> facts of the teachers and experts used.
        note: free text, e.g. the source of an imported set.
        code: digest of the method's own modules (`ddbench.system.code`); None: unknown.
        synthesis: version of the core's part in it (`ddbench.system.code.SYNTHESIS`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    method: str = "imported"
    recipe: dict[str, Any] = {}
    recipe_hash: str | None = None
    seed: int | None = None
    seconds: float | None = None
    peak_memory: int | None = None
    environment: dict[str, Any] = {}
    teachers: dict[str, dict[str, Any]] = {}
    note: str | None = None
    code: Hash | None = None
    synthesis: Number = 1


@dataclass(frozen=True, eq=False)
class Part:
    """A registered kind with its parameters (plain data) and tensors: what `targets` and `views` are made of."""

    kind: str
    params: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)


class Targets(Part):
    """Targets extra to `classes`: a kind of the group `ddbench.targets`."""


class Views(Part):
    """Views: a kind of the group `ddbench.views`, by which stored tensors become training images."""


@dataclass(frozen=True, eq=False)
class SynSet:
    """A distilled set. Checked when made: a SynSet that exists is consistent.

    Attributes:
        dataset: id of the data set that it stands for.
        split_hash: hash of the training split that it was made from.
        class_names: names in the order of the class indices; K of them.
        channels, side: shape of an image, C x side x side pixels.
        classes: int64 [n] in [0, K).
        space: the space that `images` live in, and that a student trains in.
        images: [n, C, side, side]; float32 in `space` (codec "float"), or uint8 pixels (codecs "uint8", "jpeg75":
            255 stands for 1.0; mapped into `space` for training).
        indices: int64 [n] into the training split, instead of images.
        targets, views, student_recipe: optional; see the design, 3.2.
        provenance: not part of the hash.

    Raises:
        UsageError: in one line, if anything is inconsistent, not finite or out of range.
    """

    dataset: str
    split_hash: str
    class_names: tuple[str, ...]
    channels: int
    side: int
    classes: torch.Tensor
    space: Space
    images: torch.Tensor | None = None
    indices: torch.Tensor | None = None
    codec: str = "float"
    targets: Targets | None = None
    views: Views | None = None
    student_recipe: StudentRecipe | None = None
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        _check(self)

    @classmethod
    def of(cls, dataset: Dataset, /, **fields: Any) -> "SynSet":
        """A set that stands for a data set: its id, split, class names and shape filled in, `fields` the others."""
        about = {"dataset": dataset.id, "split_hash": dataset.train.hash, "class_names": dataset.class_names}
        return cls(**{**about, "channels": dataset.channels, "side": dataset.side, **fields})

    def __len__(self) -> int:
        return len(self.classes)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over header and tensors, without provenance: 64 hex digits."""
        return tensors_digest(self.tensors(), self.header())

    def per_class(self) -> list[int]:
        """Number of images of each class, in class order."""
        return torch.bincount(self.classes, minlength=len(self.class_names)).tolist()

    def header(self) -> dict[str, Any]:
        """Part of the set that is plain data, without provenance."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "dataset": self.dataset,
            "split_hash": self.split_hash,
            "class_names": list(self.class_names),
            "channels": self.channels,
            "side": self.side,
            "space": self.space.to_json(),
            "codec": self.codec,
            "targets": self.targets and {"kind": self.targets.kind, "params": self.targets.params},
            "views": self.views and {"kind": self.views.kind, "params": self.views.params},
            "student_recipe": self.student_recipe and self.student_recipe.model_dump(mode="json"),
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor of the set under the name that it has in the file."""
        tensors = {"classes": self.classes}
        for name in ("images", "indices"):
            if (tensor := getattr(self, name)) is not None:
                tensors[name] = tensor
        for prefix in ("targets", "views"):
            part: Part | None = getattr(self, prefix)
            for name, tensor in (part.tensors if part else {}).items():
                tensors[f"{prefix}.{name}"] = tensor
        return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    def pixels(self, dataset: Dataset, places: torch.Tensor | None = None) -> torch.Tensor:
        """Images as a student sees them: float32 [n, C, side, side] in the set's space, indices resolved.

        Args:
            dataset: that the set is of.
            places: int64 [b] in the set, to give some of the images; None: all.
        """
        check_dataset(self, dataset)
        chosen = slice(None) if places is None else places
        if self.indices is not None:
            stored = dataset.train.read(self.indices[chosen])
        else:
            assert self.images is not None
            stored = self.images[chosen]
        if stored.dtype == torch.float32:
            return stored
        return transform_for(self.space, dataset).encode(stored.float() / 255)

    def with_provenance(self, **changes: Any) -> "SynSet":
        """Same set (same hash) with changed provenance."""
        return replace(self, provenance=self.provenance.model_copy(update=changes))


def stored_parts(synset: SynSet) -> dict[str, int]:
    """Bytes of what a set stores but its targets: `images`, and `extra`, the tensors of its views."""
    stored = synset.images
    lines = {"images": stored.nbytes if stored is not None else len(synset) * synset.channels * synset.side**2}
    if synset.views is not None:
        lines["extra"] = sum(tensor.nbytes for tensor in synset.views.tensors.values())
    return lines


def check_dataset(synset: SynSet, dataset: Dataset) -> None:
    """Raise UsageError unless the set was made for this data set and this training split."""
    if synset.dataset != dataset.id or synset.split_hash != dataset.train.hash:
        raise UsageError(
            f"the set was made for {synset.dataset} (train split {synset.split_hash[:12]}), "
            f"not for {dataset.id} ({dataset.train.hash[:12]})"
        )
    if synset.class_names != dataset.class_names:
        raise UsageError(f"the set's class names differ from those of {dataset.id}")
    if synset.indices is not None and int(synset.indices.max()) >= len(dataset.train):
        raise UsageError(f"the set names image {int(synset.indices.max())} of {len(dataset.train)} in {dataset.id}")


def save(synset: SynSet, path: Path) -> None:
    """Write a set to a file, whole or not at all; UsageError if the place cannot be written."""
    header = {
        **synset.header(),
        "hash": synset.hash,
        "provenance": synset.provenance.model_dump(mode="json"),
    }
    write_tensors(path, synset.tensors(), {"ddbench": canonical_json(header)})


def load(path: Path) -> SynSet:
    """Read a set and check shapes, ranges, finiteness and hash.

    Raises:
        UsageError: in one line, if the file is missing, truncated, tampered with or no SynSet.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("ddbench", "null"))
            names = set(file.keys())
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                raise UsageError(f"{path}: no ddbench SynSet")
            if header.get("version") != VERSION:
                raise UsageError(f"{path}: SynSet version {header.get('version')!r:.80}, this ddbench reads {VERSION}")
            tensors = {name: file.get_tensor(name) for name in sorted(names)}
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not a readable SynSet (truncated or damaged): {_line(error)}") from error
    try:
        synset = _assemble(header, tensors)
        content = synset.hash
    except (*ODD, ValidationError, UsageError) as error:
        raise UsageError(f"{path}: {_line(error)}") from error
    if content != header.get("hash"):
        raise UsageError(f"{path}: content does not match its hash (tampered with or damaged)")
    return synset


def _assemble(header: Mapping[str, Any], tensors: dict[str, torch.Tensor]) -> SynSet:
    known = {"classes", "images", "indices"}
    stray = [name for name in tensors if name not in known and not name.startswith(("targets.", "views."))]
    if stray:
        raise UsageError(f"unknown tensor {stray[0]!r}")
    recipe = header["student_recipe"]
    return SynSet(
        dataset=header["dataset"],
        split_hash=header["split_hash"],
        class_names=tuple(header["class_names"]),
        channels=header["channels"],
        side=header["side"],
        classes=tensors["classes"],
        space=Space.from_json(header["space"]),
        images=tensors.get("images"),
        indices=tensors.get("indices"),
        codec=header["codec"],
        targets=_part(Targets, "targets", header["targets"], tensors),
        views=_part(Views, "views", header["views"], tensors),
        student_recipe=None if recipe is None else StudentRecipe.model_validate_json(json.dumps(recipe)),
        provenance=Provenance.model_validate_json(json.dumps(header["provenance"])),
    )


def _part(kind: type, prefix: str, plain: dict[str, Any] | None, tensors: dict[str, torch.Tensor]) -> Any:
    own = {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}
    if plain is None:
        if own:
            raise UsageError(f"tensors of {prefix} without {prefix}")
        return None
    return kind(str(plain["kind"]), dict(plain["params"]), own)


def _check(synset: SynSet) -> None:
    """Consistency of everything but the targets' and views' own content, which their kinds check."""
    strings = (synset.dataset, synset.split_hash, *synset.class_names)
    if not all(isinstance(text, str) and text for text in strings):
        raise UsageError("data set, split hash and class names must be texts that are not empty")
    if synset.classes.ndim != 1:
        raise UsageError(f"classes must be a list of indices, not of shape {list(synset.classes.shape)}")
    if synset.codec not in CODECS:
        raise UsageError(f"unknown codec {synset.codec!r}; known: {', '.join(CODECS)}")
    count, known = len(synset.classes), len(synset.class_names)
    if not 1 <= known <= MAX_CLASSES or not 1 <= count <= MAX_IMAGES:
        raise UsageError(f"a set of {count} images in {known} classes is out of range")
    if not (type(synset.side) is type(synset.channels) is int and 1 <= synset.side <= MAX_SIDE):
        raise UsageError(f"side {synset.side!r} is out of range 1 to {MAX_SIDE}")
    if synset.channels not in (1, 3):
        raise UsageError(f"channels must be 1 or 3, not {synset.channels!r}")
    _check_index("classes", synset.classes, count, known)
    if (synset.images is None) == (synset.indices is None):
        raise UsageError("a set holds either images or indices")
    if synset.indices is not None:
        _check_index("indices", synset.indices, count, None)
    else:
        _check_images(synset)
    for field_ in ("targets", "views"):
        part: Part | None = getattr(synset, field_)
        for name, tensor in (part.tensors if part else {}).items():
            if tensor.dtype not in EXTRA_DTYPES:
                raise UsageError(f"{field_}.{name} is {tensor.dtype}, which a set cannot hold")
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise UsageError(f"{field_}.{name} holds values that are not finite")


def _check_index(name: str, tensor: torch.Tensor, count: int, limit: int | None) -> None:
    if tensor.dtype != torch.int64 or tensor.shape != (count,):
        raise UsageError(f"{name} must be int64 of shape [{count}], not {tensor.dtype} {list(tensor.shape)}")
    if int(tensor.min()) < 0 or (limit is not None and int(tensor.max()) >= limit):
        allowed = "0 and more" if limit is None else f"0 to {limit - 1}"
        raise UsageError(f"{name} hold {int(tensor.min())} to {int(tensor.max())}, allowed are {allowed}")


def _check_images(synset: SynSet) -> None:
    images = synset.images
    assert images is not None
    shape = (len(synset), synset.channels, synset.side, synset.side)
    if tuple(images.shape) != shape:
        raise UsageError(f"images have shape {list(images.shape)}, but classes and header say {list(shape)}")
    wanted = torch.float32 if synset.codec == "float" else torch.uint8
    if images.dtype != wanted:
        raise UsageError(f"images of codec {synset.codec!r} must be {wanted}, not {images.dtype}")
    if wanted == torch.float32 and not bool(torch.isfinite(images).all()):
        raise UsageError("images hold values that are not finite (NaN or infinity)")


def _line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return first_problem(error)
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is missing"
    return " ".join(str(error).split()) or type(error).__name__
