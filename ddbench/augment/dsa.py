"""Differentiable Siamese augmentation (DSA, arXiv 2102.08259), single mode, as the MTT and DC families run it.

Each call draws one of the six operations, uniformly and for the whole batch, then that operation's parameters for
each sample (siamese: once for the batch). The fill value is 0 in the images' own space. H is the side in pixels,
u is uniform on [0, 1), fresh at each mention:

- color: x + (u - 0.5); then (x - m_c) 2u + m_c with m_c the mean over channels at each pixel; then
  (x - m)(u + 0.5) + m with m the mean of the sample.
- crop: whole-pixel shifts, uniform on [-s, s] each way, s = floor(0.125 H + 0.5), or 0.125 H rounded (DC family).
- cutout: a square of k = floor(0.5 H + 0.5) set to 0; its center uniform on {0, ..., H - (k mod 2)} each way, rows
  center - k // 2 to center - k // 2 + k - 1, where inside the image.
- flip: left and right, probability 0.5.
- scale: sampling grid diag(s_x, s_y), independent and uniform on [1 / 1.2, 1.2].
- rotate: angle uniform on [-15, 15] degrees. Scale and rotate sample bilinearly; the DC family has
  align_corners=False, MTT and its forks True.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ddbench.augment.crops import flipped, shift
from ddbench.errors import UsageError, unknown

OPS = ("color", "crop", "cutout", "flip", "scale", "rotate")
_CROP = 0.125  # of the side
_CUTOUT = 0.5  # of the side
_SCALE = 1.2
_DEGREES = 15.0


@dataclass(frozen=True)
class Drawn:
    """One operation and its parameters: CPU tensors of one value per sample, or of length 1 (siamese)."""

    op: str
    parameters: Mapping[str, Tensor]

    def __len__(self) -> int:
        """Samples that this was drawn for; 1 serves any batch."""
        return len(next(iter(self.parameters.values())))


@dataclass(frozen=True)
class DSA:
    """Augmentation with its options; `draw` and `apply` apart so that one draw can serve two batches.

    Args:
        ops: what to draw from; digits drop "flip".
        align_corners: of scale and rotate.
        siamese: one parameter draw for the whole batch, which then applies to a batch of any size.
        crop_rounding: how the crop's reach is made whole: "floor" of 0.125 H + 0.5, or "round" of 0.125 H.
    """

    ops: tuple[str, ...] = OPS
    align_corners: bool = True
    siamese: bool = False
    crop_rounding: str = "floor"

    def __post_init__(self) -> None:
        if isinstance(self.ops, str) or not isinstance(self.ops, Iterable):
            raise UsageError(f"dsa: ops is {self.ops!r}; a list of {', '.join(OPS)} is needed")
        object.__setattr__(self, "ops", tuple(self.ops))
        for op in self.ops:
            if op not in OPS:
                raise unknown("DSA operation", str(op), OPS)
        if not self.ops or len(set(self.ops)) != len(self.ops):
            raise UsageError(f"dsa: ops is {list(self.ops)}; at least one is needed, each once")
        if self.crop_rounding not in ("floor", "round"):
            raise UsageError(f"dsa: crop_rounding is {self.crop_rounding!r}; allowed are floor, round")
        for name in ("align_corners", "siamese"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"dsa: {name} is {getattr(self, name)!r}; allowed are true, false")

    def draw(self, count: int, side: int, generator: torch.Generator) -> Drawn:
        """Draw one operation for `count` images of `side` pixels, and its parameters (one set if siamese)."""
        op = self.ops[int(torch.randint(len(self.ops), (), generator=generator))]
        return self.draw_op(op, count, side, generator)

    def draw_op(self, op: str, count: int, side: int, generator: torch.Generator) -> Drawn:
        """Draw the parameters of a given operation."""
        count = 1 if self.siamese else count

        def uniform(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(count, generator=generator)

        def whole(low: int, high: int) -> Tensor:
            return torch.randint(low, high + 1, (count,), generator=generator)

        match op:
            case "color":
                ranges = {"brightness": (-0.5, 0.5), "saturation": (0.0, 2.0), "contrast": (0.5, 1.5)}
                return Drawn(op, {name: uniform(*ends) for name, ends in ranges.items()})
            case "crop":
                reach = self._reach(side)
                return Drawn(op, {"down": whole(-reach, reach), "right": whole(-reach, reach)})
            case "cutout":
                last = side - cutout_size(side) % 2
                return Drawn(op, {"row": whole(0, last), "column": whole(0, last)})
            case "flip":
                return Drawn(op, {"flip": uniform(0, 1) < 0.5})
            case "scale":
                return Drawn(op, {"x": uniform(1 / _SCALE, _SCALE), "y": uniform(1 / _SCALE, _SCALE)})
            case _:
                return Drawn(op, {"angle": uniform(-_DEGREES, _DEGREES)})

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Apply what was drawn to images [n, C, H, H] on any device; differentiable in the images.

        Raises:
            ValueError: the draw is for another number of samples.
        """
        if len(drawn) not in (1, len(images)):
            raise ValueError(f"DSA was drawn for {len(drawn)} samples and is applied to {len(images)}")
        values = drawn.parameters
        match drawn.op:
            case "color":
                return _color(images, values)
            case "crop":
                return shift(images, values["down"], values["right"])
            case "cutout":
                return _cutout(images, values)
            case "flip":
                return flipped(images, values["flip"])
            case "scale":
                zero = torch.zeros(len(drawn))
                theta = torch.stack([values["x"], zero, zero, zero, values["y"], zero], 1)
            case _:
                angle = torch.deg2rad(values["angle"])
                sine, cosine, zero = angle.sin(), angle.cos(), torch.zeros(len(drawn))
                theta = torch.stack([cosine, -sine, zero, sine, cosine, zero], 1)
        return _warp(images, theta.view(-1, 2, 3), self.align_corners)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Draw for this batch and apply."""
        return self.apply(images, self.draw(len(images), images.shape[-1], generator)) if len(images) else images

    def _reach(self, side: int) -> int:
        return math.floor(_CROP * side + 0.5) if self.crop_rounding == "floor" else round(_CROP * side)


def cutout_size(side: int) -> int:
    """Side of the square that cutout sets to 0, in pixels."""
    return math.floor(_CUTOUT * side + 0.5)


def _color(images: Tensor, values: Mapping[str, Tensor]) -> Tensor:
    """Three color steps as one: each is linear, and saturation keeps the mean that contrast uses."""
    brightness, saturation, contrast = (
        values[name].to(images.device, images.dtype).view(-1, 1, 1, 1)
        for name in ("brightness", "saturation", "contrast")
    )
    grey = images.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    offset = contrast * (1 - saturation) * grey + (1 - contrast) * mean + brightness
    return torch.addcmul(offset, images, contrast * saturation)


def _cutout(images: Tensor, values: Mapping[str, Tensor]) -> Tensor:
    side = images.shape[-1]
    size = cutout_size(side)
    places = torch.arange(side, device=images.device)
    hidden = []
    for name in ("row", "column"):
        start = values[name].to(images.device)[:, None] - size // 2
        hidden.append((places >= start) & (places < start + size))
    hole = hidden[0][:, None, :, None] & hidden[1][:, None, None, :]
    return images.masked_fill(hole, 0)


def _warp(images: Tensor, theta: Tensor, align_corners: bool) -> Tensor:
    theta = theta.to(images.device, images.dtype).expand(len(images), -1, -1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=align_corners)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=align_corners)
