"""Networks of timm and torchvision by their own names, with random weights.

Where the last operation is one linear layer the network gets `embed` and `head` like ours; else it has forward only.
"""

from typing import Any

import torch
from torch import nn

from ddbench.errors import UsageError
from ddbench.networks.parts import Network, new_conv


def library_network(library: str, name: str, *, channels: int, side: int, classes: int) -> nn.Module:
    """Build and try one; UsageError where the library's network does not take images of this size."""
    build = timm_network if library == "timm" else torchvision_network
    try:
        net = build(name, channels, side, classes)
        logits, embedded = _try(net, channels, side, classes)
    except (RuntimeError, ValueError, AssertionError, TypeError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            f"network '{library}:{name}' does not work at {side} px, {channels} channels: {reason}"
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, classes):
        raise UsageError(f"network '{library}:{name}' does not give one row of {classes} logits for each image")
    return (embedded or net).train()


def timm_network(name: str, channels: int, side: int, classes: int, **more: Any) -> nn.Module:
    """Build timm's network as it is; `more` goes to timm, pretrained weights say."""
    import timm

    try:
        return timm.create_model(name, num_classes=classes, in_chans=channels, img_size=side, **more)
    except TypeError:  # only networks with position embeddings take an image size
        return timm.create_model(name, num_classes=classes, in_chans=channels, **more)


def torchvision_network(name: str, channels: int, side: int, classes: int, *, weights: Any = None) -> nn.Module:
    """Build torchvision's network as it is; `weights` is a member of its enumeration of weights, None: random ones."""
    import torchvision.models

    options: dict[str, object] = {"num_classes": classes}
    if name in ("googlenet", "inception_v3"):
        options |= {"transform_input": False}
        if weights is None:  # trained weights come with the auxiliary heads
            options |= {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):
        options["image_size"] = side
    if name == "maxvit_t":
        options["input_size"] = (side, side)
    net = torchvision.models.get_model(name, weights=weights, **options)
    if channels != 3:
        _replace_stem(net, channels)
    return net


def _replace_stem(net: nn.Module, channels: int) -> None:
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            parent, _, child = name.rpartition(".")
            setattr(net.get_submodule(parent), child, new_conv(module, channels=channels))
            return


@torch.no_grad()
def _try(net: nn.Module, channels: int, side: int, classes: int) -> tuple[torch.Tensor, Network | None]:
    """Logits of two random images, and the network split at its last linear layer if that leaves them unchanged."""
    images = torch.randn(2, channels, side, side)
    net.eval()
    logits = net(images)
    linear = [
        name for name, part in net.named_modules() if isinstance(part, nn.Linear) and part.out_features == classes
    ]
    if not linear or not isinstance(logits, torch.Tensor):
        return logits, None
    parent, _, child = linear[-1].rpartition(".")
    head = net.get_submodule(linear[-1])
    assert isinstance(head, nn.Linear)
    setattr(net.get_submodule(parent), child, nn.Identity())
    split = Network(net, head)
    try:
        same = torch.equal(split(images), logits)
    except RuntimeError:
        same = False
    if same:
        return logits, split
    setattr(net.get_submodule(parent), child, head)
    return logits, None
