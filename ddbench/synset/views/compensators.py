"""`compensators`: images that are added to stored images (INFER's universal feature compensators, arXiv 2408.06927).

M K compensators serve n images: image i is in slot k_i of K, and the training images are the n stored ones, then for
m = 0 .. M - 1 the n images clamp(x_i + u[m, k_i]), so N = (M + 1) n, and the classes repeat.
"""

from collections.abc import Mapping
from typing import Any

import torch

from ddbench.data.dataset import Dataset
from ddbench.data.spaces import transform_for
from ddbench.errors import UsageError
from ddbench.synset.synset import SynSet, Views
from ddbench.synset.views import ViewKind


class Compensators(ViewKind):
    """Tensors: `compensators` float32 [M, K, C, H, W] in the set's space, `slots` int64 [n] in [0, K).

    Params: `quantise`, true if compensated images are rounded to 8 bits a pixel, as where they are written out (INFER's
    code writes JPEG); may be left out.
    """

    def check(self, synset: SynSet) -> None:
        """See the base class; a whitened space is refused, whose pixel range is no range of its values."""
        views = _own(synset)
        if synset.space.kind == "zca":
            raise UsageError("compensators need a pixel or normalised space: a whitened one has no pixel range")
        if not isinstance(views.params.get("quantise", False), bool) or set(views.params) - {"quantise"}:
            raise UsageError(f"compensators: params are quantise = true or false, or none, not {views.params}")
        if set(views.tensors) != {"compensators", "slots"}:
            raise UsageError(f"compensators hold the tensors compensators and slots, not {sorted(views.tensors)}")
        _check_tensors(synset, views.tensors)

    def count(self, synset: SynSet) -> int:
        """See the base class: (M + 1) n."""
        return (len(_own(synset).tensors["compensators"]) + 1) * len(synset)

    def expand(self, synset: SynSet, dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
        """See the base class; the stored images are as stored, the others clamped to the pixel range."""
        views, stored = _own(synset), synset.pixels(dataset)
        transform = transform_for(synset.space, dataset)
        black = torch.zeros(synset.channels, 1, 1)
        low, high = transform.encode(black), transform.encode(black + 1)
        parts = [stored]
        for compensator in views.tensors["compensators"]:
            made = (stored + compensator[views.tensors["slots"]]).clamp(low, high)
            if views.params.get("quantise", False):
                made = transform.encode((transform.decode(made) * 255).round().clamp(0, 255) / 255)
            parts.append(made)
        return torch.cat(parts), synset.classes.repeat(len(parts))


def _own(synset: SynSet) -> Views:
    assert synset.views is not None
    return synset.views


def _check_tensors(synset: SynSet, tensors: Mapping[str, Any]) -> None:
    compensators, slots = tensors["compensators"], tensors["slots"]
    image = (synset.channels, synset.side, synset.side)
    if compensators.dtype != torch.float32 or compensators.ndim != 5 or tuple(compensators.shape[2:]) != image:
        raise UsageError(
            f"compensators must be float32 [M, K, {', '.join(map(str, image))}], "
            f"not {compensators.dtype} {list(compensators.shape)}"
        )
    if not 1 <= compensators.shape[1] <= len(synset) or len(compensators) < 1:
        raise UsageError(
            f"compensators: [M, K] = {list(compensators.shape[:2])}, where 1 <= M and 1 <= K <= n are needed"
        )
    if slots.dtype != torch.int64 or tuple(slots.shape) != (len(synset),):
        raise UsageError(f"compensators: slots must be int64 [{len(synset)}], not {slots.dtype} {list(slots.shape)}")
    if int(slots.min()) < 0 or int(slots.max()) >= compensators.shape[1]:
        raise UsageError(
            f"compensators: slots hold {int(slots.min())} to {int(slots.max())}, "
            f"allowed are 0 to {compensators.shape[1] - 1}"
        )


COMPENSATORS = Compensators()
