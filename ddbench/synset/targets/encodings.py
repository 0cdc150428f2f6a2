"""Encodings of stored logits: fp16 as they are, int8 with a scale and an offset a row, or the k largest only.

An encoding says which tensors it fills, writes logits [b, K] into them at a place, reads them back as float32, and checks
what it is given. All tensors have the places first and the rows second.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ddbench.errors import UsageError
from ddbench.synset.synset import Targets

LEVELS = 127  # int8 values on either side of 0
Tensors = dict[str, Tensor]
Shapes = dict[str, tuple[torch.dtype, tuple[int, ...]]]


class Encoding(ABC):
    """One way to write logits."""

    @abstractmethod
    def shapes(self, rows: int, classes: int) -> Shapes:
        """Name -> dtype and shape of one place's entry, for b rows of K logits."""

    @abstractmethod
    def write(self, logits: Tensor) -> Tensors:
        """Entry of logits [b, K]."""

    @abstractmethod
    def read(self, entry: Tensors, classes: int) -> Tensor:
        """Logits float32 [b, K] of an entry."""

    def check(self, tensors: Tensors, classes: int) -> None:
        """Raise UsageError unless the values, not the shapes, are in range."""
        return None

    def suffices(self, other: "Encoding") -> bool:
        """Tell whether logits written so can be written as another encoding does, with no loss but its own and fp16's."""
        return self == other

    def bytes(self, rows: int, classes: int) -> int:
        """Size of one place's entry."""
        return shapes_bytes(self.shapes(rows, classes))


@dataclass(frozen=True)
class Half(Encoding):
    """`fp16`: the logits rounded to 16 bits."""

    def shapes(self, rows: int, classes: int) -> Shapes:
        """See the base class."""
        return {"logits": (torch.float16, (rows, classes))}

    def write(self, logits: Tensor) -> Tensors:
        """See the base class."""
        return {"logits": logits.half()}

    def read(self, entry: Tensors, classes: int) -> Tensor:
        """See the base class."""
        return entry["logits"].float()

    def suffices(self, other: Encoding) -> bool:
        """See the base class."""
        return True


@dataclass(frozen=True)
class Int8(Encoding):
    """`int8`: q = round((z - offset) / scale), offset the middle of a row's range, scale its 254th part.

    So |z - (offset + scale q)| <= scale / 2, up to the rounding of float32.
    """

    def shapes(self, rows: int, classes: int) -> Shapes:
        """See the base class."""
        row = (torch.float32, (rows,))
        return {"logits": (torch.int8, (rows, classes)), "offset": row, "scale": row}

    def write(self, logits: Tensor) -> Tensors:
        """See the base class."""
        low, high = logits.float().aminmax(dim=1)
        offset, scale = low + (high - low) / 2, (high - low) / (2 * LEVELS)
        steps = (logits - offset[:, None]) / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
        return {"logits": steps.round().clamp(-LEVELS, LEVELS).to(torch.int8), "offset": offset, "scale": scale}

    def read(self, entry: Tensors, classes: int) -> Tensor:
        """See the base class."""
        return entry["offset"][:, None] + entry["scale"][:, None] * entry["logits"]

    def check(self, tensors: Tensors, classes: int) -> None:
        """See the base class."""
        if float(tensors["scale"].min()) < 0:
            raise UsageError("stored logits: scale must be 0 or more")


@dataclass(frozen=True)
class TopK(Encoding):
    """`topk`: the k largest logits of a row with their places, and one logit for all others.

    That one, `rest`, is log(sum of exp(z) over the others / (K - k)): at temperature 1 the others keep the probability
    that they had together, and share it evenly.
    """

    kept: int

    def shapes(self, rows: int, classes: int) -> Shapes:
        """See the base class."""
        places = torch.int16 if classes <= torch.iinfo(torch.int16).max + 1 else torch.int32
        kept = (rows, self.kept)
        return {"values": (torch.float16, kept), "indices": (places, kept), "rest": (torch.float16, (rows,))}

    def write(self, logits: Tensor) -> Tensors:
        """See the base class."""
        classes = logits.shape[1]
        values, places = logits.topk(self.kept, dim=1)
        others = logits.scatter(1, places, -torch.inf).logsumexp(1) - math.log(classes - self.kept)
        dtype = self.shapes(1, classes)["indices"][0]
        return {"values": values.half(), "indices": places.to(dtype), "rest": others.half()}

    def read(self, entry: Tensors, classes: int) -> Tensor:
        """See the base class."""
        spread = entry["rest"].float()[:, None].expand(-1, classes)
        return spread.scatter(1, entry["indices"].long(), entry["values"].float())

    def check(self, tensors: Tensors, classes: int) -> None:
        """See the base class."""
        low, high = (int(value) for value in tensors["indices"].aminmax())
        if low < 0 or high >= classes:
            raise UsageError(f"stored logits: indices hold {low} to {high}, allowed are 0 to {classes - 1}")

    def suffices(self, other: Encoding) -> bool:
        """See the base class; the values are sorted, and `rest` tells what the others have together."""
        return isinstance(other, TopK) and other.kept <= self.kept


ENCODINGS = ("fp16", "int8", "topk")


def encoding_of(name: str, kept: int | None, classes: int) -> Encoding:
    """Encoding of a name; UsageError if it is unknown, or `kept` (k, of "topk" only) is out of range."""
    if name not in ENCODINGS:
        raise UsageError(f"stored logits: encoding must be one of {', '.join(ENCODINGS)}, not {name!r}")
    if (name == "topk") != (kept is not None):
        raise UsageError("stored logits: k, how many logits to keep, goes with the encoding topk")
    if kept is None:
        return Half() if name == "fp16" else Int8()
    if type(kept) is not int or not 1 <= kept < classes:
        raise UsageError(f"stored logits: k must be 1 to {classes - 1}, fewer than the classes, not {kept!r}")
    return TopK(kept)


def stored_topk(targets: Targets) -> int | None:
    """Number of logits that targets keep of a row; None where they are not written by "topk"."""
    values = targets.tensors.get("values")
    return values.shape[-1] if values is not None and values.ndim else None


def stored_encoding(targets: Targets, classes: int) -> Encoding:
    """Encoding of the logits of targets that have one; UsageError if that is unknown, or k is out of range."""
    return encoding_of(targets.params["encoding"], stored_topk(targets), classes)


def shapes_bytes(shapes: Shapes) -> int:
    """Size of tensors of these dtypes and shapes."""
    return sum(torch.Size(shape).numel() * dtype.itemsize for dtype, shape in shapes.values())


def check_shapes(targets: Targets, shapes: Shapes) -> None:
    """UsageError unless targets hold tensors of these names, dtypes and shapes, and no others."""
    if set(targets.tensors) != set(shapes):
        raise UsageError(f"{targets.kind} targets hold {sorted(shapes)}, not {sorted(targets.tensors)}")
    for name, (dtype, shape) in shapes.items():
        tensor = targets.tensors[name]
        if tensor.dtype != dtype or tuple(tensor.shape) != tuple(shape):
            raise UsageError(
                f"{targets.kind} targets: {name} must be {dtype} {list(shape)}, not {tensor.dtype} {list(tensor.shape)}"
            )
