"""Our networks: an `Architecture` for each entry point, as a package of anyone would have them."""

from functools import partial
from typing import TYPE_CHECKING, Any

from ddbench.networks.registry import Architecture

if TYPE_CHECKING:
    from torch import nn

_DC = "the evaluation networks of the DC and MTT families (arXiv 2006.05929, 2203.11932)"
_SMALL = "; up to 64 px a 3x3 stem and no first pool"


def depth_at(side: int) -> int:
    """Blocks of `convnet` for images of `side` pixels."""
    return 2 if side <= 16 else 3 if side <= 48 else 4 if side <= 96 else 5


def _build(base: str, *, norm: str, width: int | None, **shape: int) -> "nn.Module":
    """Build one of ours; its module, which needs torch, is imported only now. `shape`: channels, side, classes."""
    if base.startswith("convnet"):
        from ddbench.networks.convnet import ConvNet

        depth = depth_at(shape["side"]) if base == "convnet" else int(base[-1])
        return ConvNet(depth=depth, width=width or 0, norm=norm, **shape)
    if base.startswith("resnet"):
        from ddbench.networks.resnet import resnet

        return resnet(base, norm=norm, **shape)
    if base in ("alexnet", "vgg11", "lenet", "mlp"):
        from ddbench.networks import small

        options = {"lenet": {}, "mlp": {"width": width}}.get(base, {"norm": norm})
        network: nn.Module = getattr(small, base)(**options, **shape)
        return network
    from ddbench.networks.mobile import mobile

    return mobile(base, norm=norm, **shape)


def _ours(base: str, norms: str, description: str, source: str, **options: Any) -> Architecture:
    return Architecture(description, source, tuple(norms.split()), partial(_build, base), **options)


def _convnet(base: str, blocks: str, **options: Any) -> Architecture:
    description = f"ConvNet, {blocks}: conv 3x3, norm, ReLU, average pool 2x2 each; one linear layer"
    source = "the DC family's ConvNet (arXiv 2006.05929)"
    return _ours(base, "in bn none", description, source, width=128, **options)


def _zoo(base: str, title: str, source: str) -> Architecture:
    return _ours(base, "bn in", f"torchvision's {title}{_SMALL}", source)


CONVNET = _convnet(
    "convnet",
    "depth by side (up to 16 px: 2, 48: 3, 96: 4, above: 5)",
    at_side=lambda side: f"convnet-d{depth_at(side)}",
)
CONVNET_D1 = _convnet("convnet-d1", "1 block")
CONVNET_D2 = _convnet("convnet-d2", "2 blocks")
CONVNET_D3 = _convnet("convnet-d3", "3 blocks")
CONVNET_D4 = _convnet("convnet-d4", "4 blocks")
CONVNET_D5 = _convnet("convnet-d5", "5 blocks")
CONVNET_D6 = _convnet("convnet-d6", "6 blocks")
RESNET18 = _zoo("resnet18", "resnet18", "arXiv 1512.03385")
RESNET18_AP = _zoo("resnet18-ap", "resnet18, strides replaced by 2x2 average pools, no global pool", "arXiv 1512.03385")
RESNET50 = _zoo("resnet50", "resnet50", "arXiv 1512.03385")
RESNET101 = _zoo("resnet101", "resnet101", "arXiv 1512.03385")
VGG11 = _ours("vgg11", "in bn none", "VGG-11 for small images: 512 features, one linear layer", "arXiv 1409.1556")
ALEXNET = _ours("alexnet", "none in bn", "AlexNet for small images: five convs, one linear layer", _DC)
LENET = _ours("lenet", "none", "LeNet-5 with ReLU and max pools", _DC)
MLP = _ours("mlp", "none", "three linear layers", _DC, width=128)
MOBILENETV2 = _zoo("mobilenetv2", "MobileNetV2", "arXiv 1801.04381")
SHUFFLENETV2 = _zoo("shufflenetv2", "ShuffleNetV2 x1.0", "arXiv 1807.11164")
DENSENET121 = _zoo("densenet121", "DenseNet-121", "arXiv 1608.06993")
EFFICIENTNET_B0 = _zoo("efficientnet-b0", "EfficientNet-B0", "arXiv 1905.11946")
