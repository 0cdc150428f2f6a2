"""MobileNetV2, ShuffleNetV2, DenseNet-121 and EfficientNet-B0: torchvision's, thinned for small images.

Up to 64 px the first two halvings go (stem and first pool or strided stage), as in the CIFAR forms of these
networks; DenseNet's stem conv is then 3x3. A halving that would leave less than 2 x 2 pixels goes too.
torchvision's initialization; dropout and stochastic depth as published, drawn from torch's global generator.
"""

from collections.abc import Callable

import torchvision.models as zoo
from torch import nn

from ddbench.networks.parts import Network, drop_strides, halvings, new_conv, plain_activations, replace_norms


def mobile(base: str, *, norm: str, channels: int, side: int, classes: int) -> Network:
    """Build one of the four by name."""
    net, head = _BUILDERS[base](channels, classes, halvings(side))
    replace_norms(net, norm)
    plain_activations(net)
    return Network(net, head)


def _mobilenetv2(channels: int, classes: int, kept: list[bool]) -> tuple[nn.Module, nn.Linear]:
    net = zoo.mobilenet_v2(num_classes=classes)
    _thin_sequence(net.features, (0, 2, 4, 7, 14), channels, kept)
    return net, _take_last(net.classifier)


def _efficientnet(channels: int, classes: int, kept: list[bool]) -> tuple[nn.Module, nn.Linear]:
    net = zoo.efficientnet_b0(num_classes=classes)
    _thin_sequence(net.features, (0, 2, 3, 4, 6), channels, kept)
    return net, _take_last(net.classifier)


def _shufflenetv2(channels: int, classes: int, kept: list[bool]) -> tuple[nn.Module, nn.Linear]:
    net = zoo.shufflenet_v2_x1_0(num_classes=classes)
    net.conv1[0] = new_conv(net.conv1[0], channels=channels)
    for part, keep in zip((net.conv1, None, net.stage2, net.stage3, net.stage4), kept, strict=True):
        if part is not None and not keep:
            drop_strides(part)
    if not kept[1]:
        net.maxpool = nn.Identity()
    head, net.fc = net.fc, nn.Identity()
    return net, head


def _densenet121(channels: int, classes: int, kept: list[bool]) -> tuple[nn.Module, nn.Linear]:
    net = zoo.densenet121(num_classes=classes)
    features = net.features
    features.conv0 = new_conv(features.conv0, channels=channels, kernel=None if kept[0] else 3)
    if not kept[0]:
        drop_strides(features.conv0)
    if not kept[1]:
        features.pool0 = nn.Identity()
    for number, keep in enumerate(kept[2:], start=1):
        if not keep:
            getattr(features, f"transition{number}").pool = nn.Identity()
    head, net.classifier = net.classifier, nn.Identity()
    return net, head


def _thin_sequence(features: nn.Sequential, strided: tuple[int, ...], channels: int, kept: list[bool]) -> None:
    """Fit the stem, features[0][0], to the channels, and take the stride from the numbered stages not kept."""
    stem = features[0]
    assert isinstance(stem, nn.Sequential)
    conv = stem[0]
    assert isinstance(conv, nn.Conv2d)
    stem[0] = new_conv(conv, channels=channels)
    for number, keep in zip(strided, kept, strict=True):
        if not keep:
            drop_strides(features[number])


def _take_last(classifier: nn.Sequential) -> nn.Linear:
    """Cut the linear layer off a classifier; its dropout stays, as part of the embedding."""
    head, classifier[-1] = classifier[-1], nn.Identity()
    assert isinstance(head, nn.Linear)
    return head


_BUILDERS: dict[str, Callable[[int, int, list[bool]], tuple[nn.Module, nn.Linear]]] = {
    "mobilenetv2": _mobilenetv2,
    "efficientnet-b0": _efficientnet,
    "shufflenetv2": _shufflenetv2,
    "densenet121": _densenet121,
}
