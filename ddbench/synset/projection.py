"""Projectors: logits f(x) = s W^T E(x) of a frozen encoder E and a column of W for each class, both adapted in low rank.

Every adapted weight, of E's convolutions and W [d, K], is theta + A B with A [rows, r] and B [r, columns] (HeLlO, arXiv
2408.08201). A convolution's weight [O, I / g, h, w] is a matrix of rows (o, y) and columns (i, x) in the form "square",
of rows o and columns (i, y, x) in the form "flat". Applied apart, the square form is two thin convolutions, along a row
and then along a column; merged, it costs nothing. E stays in eval mode, so that its norms are what they were.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.data.resizing import resized
from ddbench.data.spaces import Space
from ddbench.errors import UsageError
from ddbench.hashing import tensors_digest
from ddbench.networks import clip
from ddbench.networks.parts import Network
from ddbench.synset.teachers import Recall, Teacher, require

ConvForm = Literal["square", "flat"]
COLUMNS = "columns"  # the part that W is, beside the convolutions by their names
CONV = "conv."

Factors = Mapping[str, Tensor]
"""`PART.a` [rows, r] and `PART.b` [r, columns] of each adapted part, float32; a part without factors is not adapted."""


@dataclass(frozen=True, eq=False)
class Encoder:
    """A frozen image encoder.

    Attributes:
        module: images [b, C, side, side] in `space` to features [b, width]; in eval mode, without gradients, on the CPU.
        space, channels, side: what it reads; images of another side are resized.
        width: of the features, d.
        name: for people.
        params: what names it in a set, plain data.
        stored: bytes of its weights, without a head.
        hash: of its weights.
        texts: bytes of what else is needed to make columns of texts: CLIP's text tower, else 0.
    """

    module: nn.Module
    space: Space
    channels: int
    side: int
    width: int
    name: str
    params: dict[str, Any]
    stored: int
    hash: str
    texts: int = 0

    def read(self, images: Tensor) -> Tensor:
        """Images [b, C, H, W] of its space at its side."""
        return resized(images, self.side)


@dataclass(frozen=True)
class ProjectorForm:
    """Form in which factors and features become logits: form of a convolution's matrix, scale s, whether E(x) has length 1."""

    conv: ConvForm = "square"
    scale: float = 1.0
    normalised: bool = False


def teacher_encoder(teacher: Teacher) -> Encoder:
    """A kept network without its head; UsageError if it does not end in one linear layer."""
    network = teacher.module(torch.device("cpu"))
    if not isinstance(network, Network):
        raise UsageError(f"network {teacher.network!r} has no embedding: choose one that ends in one linear layer")
    width, body = network.head.in_features, nn.Sequential(network.features, nn.Flatten())
    return Encoder(
        module=body.eval(),
        space=teacher.space,
        channels=teacher.channels,
        side=teacher.side,
        width=width,
        name=teacher.network,
        params={"kind": "teacher", "hash": teacher.hash},
        stored=_nbytes(body),
        hash=tensors_digest(body.state_dict()),
    )


def clip_encoder(model: str, tag: str | None, seed: int) -> Encoder:
    """Image tower of an open_clip model; see `clip.load_clip`."""
    whole = clip.load_clip(model, tag, seed)
    tower: Any = whole.visual
    size = tower.image_size
    side = int(size if isinstance(size, int) else size[0])
    channels, (width, weights) = 3, _tower_facts(tower, 3, side)
    if width is None:
        raise UsageError(f"open_clip model {model!r} does not give one row of features for each image")
    drawn = {} if tag else {"seed": seed}
    return Encoder(
        module=tower,
        space=Space("normalised", mean=tuple(tower.image_mean), std=tuple(tower.image_std)),
        channels=channels,
        side=side,
        width=width,
        name=f"open_clip:{model}" + (f":{tag}" if tag else ""),
        params={"kind": "open_clip", "model": model, "tag": tag, "weights": weights, **drawn},
        stored=_nbytes(tower),
        texts=_nbytes(whole) - _nbytes(tower),
        hash=weights,
    )


@lru_cache(maxsize=1)  # of the one model that is kept, see `clip.load_clip`: every student asks
def _tower_facts(tower: nn.Module, channels: int, side: int) -> tuple[int | None, str]:
    """Width of its features, None unless it gives rows of them, and the digest of its weights."""
    features = tower(torch.zeros(2, channels, side, side))
    width = features.shape[1] if isinstance(features, Tensor) and features.dim() == 2 else None
    return width, tensors_digest(tower.state_dict())


def named_encoder(params: Mapping[str, Any], recall: Recall | None = None) -> Encoder:
    """Encoder that `Encoder.params` names, checked by `targets.projector` before.

    Raises:
        UsageError: it is not in the cache, cannot be loaded, or has other weights than those that were adapted.
    """
    if params["kind"] == "teacher":
        return teacher_encoder((recall(params["hash"]) if recall else None) or require(params["hash"]))
    encoder = clip_encoder(params["model"], params["tag"], params.get("seed", 0))
    if encoder.hash != params["weights"]:
        raise UsageError(
            f"the weights of {encoder.name} here are not those that the projector was fitted to "
            f"({encoder.hash[:12]}, not {params['weights'][:12]})"
        )
    return encoder


def text_columns(params: Mapping[str, Any], prompts: list[str]) -> Tensor:
    """Columns [d, K] that an open_clip encoder's own text tower makes of prompts; see `clip.text_columns`."""
    whole = clip.load_clip(params["model"], params["tag"], params.get("seed", 0))
    return clip.text_columns(whole, params["model"], prompts)


def _nbytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def convolutions(module: nn.Module) -> dict[str, nn.Conv2d]:
    """Convolutions of an encoder by the name of their part, in the order of its modules."""
    return {CONV + name: part for name, part in module.named_modules() if isinstance(part, nn.Conv2d)}


def matrix_shape(weight: torch.Size, form: ConvForm) -> tuple[int, int]:
    """Rows and columns of the matrix that a convolution's weight [O, I / g, h, w] is."""
    outputs, inputs, height, width = weight
    return (outputs * height, inputs * width) if form == "square" else (outputs, inputs * height * width)


def conv_change(a: Tensor, b: Tensor, weight: torch.Size, form: ConvForm) -> Tensor:
    """A B as a convolution's weight [O, I / g, h, w]."""
    outputs, inputs, height, width = weight
    if form == "flat":
        return (a @ b).view(weight)
    return (a @ b).view(outputs, height, inputs, width).permute(0, 2, 1, 3)


def matrix_shapes(encoder: Encoder, classes: int, form: ProjectorForm) -> dict[str, tuple[int, int]]:
    """Rows and columns of every part that can be adapted: the convolutions and W."""
    shapes = {name: matrix_shape(part.weight.shape, form.conv) for name, part in convolutions(encoder.module).items()}
    return {**shapes, COLUMNS: (encoder.width, classes)}


def check_factors(encoder: Encoder, classes: int, factors: Factors, form: ProjectorForm) -> None:
    """UsageError unless the factors are of this encoder's parts and of their shapes, no rank above its matrix's."""
    shapes = matrix_shapes(encoder, classes, form)
    parts = {name.removesuffix(end) for end in (".a", ".b") for name in factors if name.endswith(end)}
    for part in sorted(parts):
        if part not in shapes:
            raise UsageError(f"projector targets: encoder {encoder.name} has no {part!r} to adapt")
        rows, columns = shapes[part]
        a, b = factors[f"{part}.a"], factors[f"{part}.b"]
        rank = a.shape[1]
        if a.shape[0] != rows or b.shape[1] != columns or not 1 <= rank <= min(rows, columns):
            raise UsageError(
                f"projector targets: factors of {part} must be [{rows}, r] and [r, {columns}], r at most "
                f"{min(rows, columns)}, not {list(a.shape)} and {list(b.shape)}"
            )


def changed_weights(encoder: nn.Module, factors: Factors, form: ConvForm) -> dict[str, Tensor]:
    """Weight theta + A B of every adapted convolution, by the name of the parameter in the encoder."""
    weights = {}
    for part, conv in convolutions(encoder).items():
        if f"{part}.a" in factors:
            change = conv_change(factors[f"{part}.a"], factors[f"{part}.b"], conv.weight.shape, form)
            weights[f"{part.removeprefix(CONV)}.weight"] = conv.weight + change
    return weights


def changed_columns(columns: Tensor, factors: Factors) -> Tensor:
    """W + A B, [d, K]."""
    if f"{COLUMNS}.a" not in factors:
        return columns
    return columns + factors[f"{COLUMNS}.a"] @ factors[f"{COLUMNS}.b"]


def project(features: Tensor, columns: Tensor, form: ProjectorForm) -> Tensor:
    """Logits s W^T E(x), [b, K], of features [b, d]."""
    embedding = F.normalize(features, dim=1) if form.normalised else features
    return form.scale * (embedding @ columns)


class Projector(nn.Module):
    """A projector whose factors are merged into its weights, in eval mode: images in the encoder's space to logits."""

    columns: Tensor

    def __init__(self, encoder: Encoder, columns: Tensor, factors: Factors, form: ProjectorForm) -> None:
        """Merge, on the CPU; the encoder itself is left as it is."""
        super().__init__()
        self.side, self.form = encoder.side, form
        self.body = deepcopy(encoder.module)
        with torch.no_grad():
            for name, weight in changed_weights(encoder.module, factors, form.conv).items():
                self.body.get_parameter(name).copy_(weight)
            self.register_buffer("columns", changed_columns(columns, factors))
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [b, K] of images [b, C, H, W]."""
        return project(self.body(resized(images, self.side)), self.columns, self.form)
