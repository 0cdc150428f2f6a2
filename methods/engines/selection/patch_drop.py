"""Patch dropping of Dataset Quantization: patches that matter least are left out, and a masked autoencoder fills them in.

1. GradCAM++ (arXiv 1710.11063) of the class that an ImageNet network predicts: with A the network's last feature maps
   [d, h, w], z the predicted logit and g = dz / dA, alpha = g^2 / (2 g^2 + sum_hw(A) g^3) (0 where g is), w_k = sum_hw of
   alpha_k relu(g_k), map = relu(sum_k w_k A_k). The paper's factor exp(z) scales a whole map: it changes no order.
2. Resize the map to the autoencoder's grid of patches and keep the int(keep * patches) patches where it is largest.
3. The autoencoder (arXiv 2111.06377), given those, predicts the others; the kept patches are pasted over its prediction.

Images are resized to the autoencoder's side, and back. Both networks are libraries' own, with their weights.
"""

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ddbench import networks
from ddbench.data.resizing import resized
from ddbench.distillation.method import Hyper
from ddbench.distillation.task import Task
from ddbench.errors import UsageError
from ddbench.hashing import tensors_digest

from ..decoupled.cam import mapped_part, maps_and_gradient
from ..pretrained import pretrained

AT_ONCE = 64  # images in a forward
CHANNELS = 3  # of the libraries' weights; a gray image is shown to them as three equal channels
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and std that masked autoencoders read, whatever their library's checkpoint."""


class PatchDropFields(Hyper):
    """Dropping of patches from chosen images."""

    patch_keep: float = Field(1.0, gt=0, le=1, description="share of the patches that is kept; 1: images as they are")
    mae: str | None = Field(
        None, description="masked autoencoder: a folder or hub name that transformers' ViTMAEForPreTraining loads"
    )
    cam_network: str = Field("torchvision:resnet18", description="pretrained network whose GradCAM++ ranks patches")

    @model_validator(mode="after")
    def _autoencoder_for_patches(self) -> Self:
        if self.patch_keep < 1 and self.mae is None:
            raise ValueError("patch_keep below 1 needs a masked autoencoder: set mae to a folder or hub name")
        return self


def cam_plus_plus(network: nn.Module, images: Tensor) -> Tensor:
    """GradCAM++ of the predicted class of images [b, C, H, W] on the network's last feature maps: [b, h, w], see the module.

    Raises:
        UsageError: no part of the network gives such maps.
    """
    part = mapped_part(network, images[:1])
    maps, gradient = maps_and_gradient(network, part, images, lambda logits: logits.max(1).values)
    below = 2 * gradient.square() + maps.sum((2, 3), keepdim=True) * gradient**3
    alpha = torch.where(below == 0, 0.0, gradient.square() / torch.where(below == 0, 1.0, below))
    weights = (alpha * gradient.relu()).sum((2, 3), keepdim=True)
    return (weights * maps).sum(1).relu()


def importance_order(maps: Tensor, grid: int) -> Tensor:
    """Patches by their importance, maps [b, h, w] resized to grid x grid: int64 [b, grid^2], most important first."""
    values = nn.functional.interpolate(maps[:, None], (grid, grid), mode="bilinear").flatten(1)
    return values.argsort(dim=1, descending=True, stable=True)


@dataclass(frozen=True, eq=False)
class PatchDropper:
    """Networks of patch dropping, in eval mode on the device.

    Attributes:
        model: transformers' ViTMAEForPreTraining; it takes any number of kept patches.
        cam: images as [0, 1] pixels at the model's side to maps of importance [b, h, w].
        keep: share of the patches that is kept.
    """

    model: Any
    cam: Callable[[Tensor], Tensor]
    keep: float

    @property
    def side(self) -> int:
        """Of the images that the autoencoder reads, in pixels."""
        return int(self.model.config.image_size)

    @property
    def grid(self) -> int:
        """Patches in a row."""
        return self.side // int(self.model.config.patch_size)

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Images float [b, C, H, W] on [0, 1] with their least important patches filled in: uint8 of the same shape."""
        colored = pixels if pixels.shape[1] == CHANNELS else pixels.expand(-1, CHANNELS, -1, -1)
        large = resized(colored, self.side).clamp(0, 1)
        filled = self.fill(large, importance_order(self.cam(large), self.grid))
        small = resized(filled, pixels.shape[-1])
        small = small if pixels.shape[1] == CHANNELS else small.mean(1, keepdim=True)
        return (small.clamp(0, 1) * 255).round().to(torch.uint8)

    def fill(self, large: Tensor, order: Tensor) -> Tensor:
        """Images on [0, 1] at the model's side with all but the first int(keep * patches) of `order` predicted."""
        count = order.shape[1]
        # the model keeps int(count (1 - mask_ratio)) patches, those of the least noise
        self.model.config.mask_ratio = 1 - (kept_patches(count, self.keep) + 0.5) / count
        noise = order.argsort(dim=1).to(large.dtype)
        mean, std = (torch.tensor(value, device=large.device)[:, None, None] for value in IMAGENET)
        output = self.model((large - mean) / std, noise=noise)
        predicted = self.model.unpatchify(output.logits)
        dropped = output.mask.view(-1, 1, self.grid, self.grid)
        dropped = dropped.repeat_interleave(self.side // self.grid, 2).repeat_interleave(self.side // self.grid, 3)
        return torch.where(dropped == 1, predicted * std + mean, large)


def kept_patches(count: int, keep: float) -> int:
    """Number of `count` patches that are kept: int(keep * count), at least 1; a rounding below a whole number is none."""
    return max(1, int(keep * count + 1e-9))


def patch_dropper(task: Task, fields: PatchDropFields) -> PatchDropper | None:
    """Load the networks of patch dropping, or None where all patches are kept; called before other work.

    Raises:
        UsageError: transformers is not installed, or weights cannot be had; what to install or where to put it.
    """
    if fields.patch_keep == 1:
        return None
    assert fields.mae is not None
    model = _autoencoder(fields.mae).to(task.device)
    side = int(model.config.image_size)
    network, space = pretrained(networks.canonical(fields.cam_network, side=side), channels=CHANNELS, side=side)
    network.to(task.device).eval().requires_grad_(False)
    mean, std = (torch.tensor(value, device=task.device)[:, None, None] for value in (space.mean, space.std))

    def cam(pixels: Tensor) -> Tensor:
        return cam_plus_plus(network, (pixels - mean) / std)

    cam(torch.zeros(1, CHANNELS, side, side, device=task.device))  # a network without feature maps is known now
    task.teachers[tensors_digest(model.state_dict(), {})] = {"network": "ViT-MAE", "filled": "dropped patches"}
    return PatchDropper(model, cam, fields.patch_keep)


def _autoencoder(name: str) -> Any:
    try:
        from transformers import ViTMAEForPreTraining
        from transformers.utils import logging
    except ImportError as error:
        raise UsageError(
            "patch dropping needs the library transformers: pip install 'ddbench[mae]', or set patch_keep to 1"
        ) from error
    progress_bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            loaded: Any = ViTMAEForPreTraining.from_pretrained(
                name, use_safetensors=True, output_loading_info=True
            )  # never a pickle
    except Exception as error:  # whatever the library, its hub or a damaged file comes up with
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UsageError(
            f"the masked autoencoder {name!r} cannot be loaded ({reason}): put a folder with the config.json and "
            "model.safetensors of a ViTMAEForPreTraining there, or give its path as mae"
        ) from error
    finally:
        if progress_bar:
            logging.enable_progress_bar()
    model, report = loaded
    missing = sorted({*report["missing_keys"], *report["mismatched_keys"]})
    if missing:
        raise UsageError(f"{name!r} is no whole masked autoencoder: it has no {missing[0]} ({len(missing)} missing)")
    if model.config.norm_pix_loss or model.config.num_channels != CHANNELS:
        raise UsageError(
            f"the masked autoencoder {name!r} must predict {CHANNELS} channels of pixels, not normalized ones"
        )
    return model.eval().requires_grad_(False)


def patched(task: Task, dropper: PatchDropper, places: Tensor) -> Tensor:
    """Training images at `places` [n] with patches dropped and filled in: uint8 [n, C, H, W], on the CPU."""
    parts, done = places.split(AT_ONCE), []
    for at in task.loop(0, len(parts), "dropping patches"):
        done.append(dropper(task.read(task.space("pixel"), parts[at])).cpu())
    return torch.cat(done)
