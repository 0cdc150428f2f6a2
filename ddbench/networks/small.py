"""Other small networks of the DC family: AlexNet, VGG-11, LeNet and MLP, each made to work from 8 to 128 px.

At 32 px they are the published forms (LeNet at 28 px too); elsewhere the stem's stride or a pool is adapted, as
said at each. PyTorch's default initialization.
"""

from torch import nn

from ddbench.networks.parts import Network, conv, too_small

_VGG11 = ((64,), (128,), (256, 256), (512, 512), (512, 512))


def alexnet(*, norm: str, channels: int, side: int, classes: int) -> Network:
    """Convs 5x5 (128), 5x5 (192), 3x3 (256, 192, 192) with ReLU; max pools 2x2 after the first, second and last.

    The first conv has stride 1 up to 48 px, 2 up to 96 and 4 above, so that 32, 64 and 128 px end in 192 x 4 x 4.
    """
    stride = stem_stride(side)
    final = ((side - 1) // stride + 1) // 8
    if final < 1:
        raise too_small("alexnet", side, 8)
    layers = [*conv(channels, 128, norm, kernel=5, stride=stride), nn.MaxPool2d(2)]
    layers += [*conv(128, 192, norm, kernel=5), nn.MaxPool2d(2)]
    layers += [*conv(192, 256, norm), *conv(256, 192, norm), *conv(192, 192, norm), nn.MaxPool2d(2)]
    return Network(nn.Sequential(*layers), nn.Linear(192 * final * final, classes))


def vgg11(*, norm: str, channels: int, side: int, classes: int) -> Network:
    """VGG-11 in its CIFAR form: 3x3 convs, five max pools, a global average, one linear layer on 512 features.

    A pool that would leave less than 2 x 2 pixels to later convs is left out (up to 31 px): an instance norm of
    single pixels returns its bias.
    """
    if side < 2:
        raise too_small("vgg11", side, 2)
    layers: list[nn.Module] = []
    inputs = channels
    for number, stage in enumerate(_VGG11):
        for outputs in stage:
            layers += conv(inputs, outputs, norm)
            inputs = outputs
        if side // 2 >= (2 if number < len(_VGG11) - 1 else 1):
            layers.append(nn.MaxPool2d(2))
            side //= 2
    return Network(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1)), nn.Linear(512, classes))


def lenet(*, channels: int, side: int, classes: int) -> Network:
    """Convs 5x5 (6, 16) with ReLU and max pool 2x2; linear layers 120, 84, classes.

    Convs are padded by 2 where the image is small (the first below 32 px, the second below 16); the first has
    stride 2 above 48 px and 4 above 96.
    """
    pads = 2 if side < 32 else 0, 2 if side < 16 else 0
    first = ((side + 2 * pads[0] - 5) // stem_stride(side) + 1) // 2
    final = (first + 2 * pads[1] - 4) // 2
    if final < 1:
        raise too_small("lenet", side, 4)
    layers = [nn.Conv2d(channels, 6, 5, stem_stride(side), pads[0]), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(6, 16, 5, padding=pads[1]), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    layers += [nn.Linear(16 * final * final, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()]
    return Network(nn.Sequential(*layers), nn.Linear(84, classes))


def mlp(*, width: int, channels: int, side: int, classes: int) -> Network:
    """Three linear layers, ReLU after the first two, on the flattened image."""
    layers = [nn.Flatten(), nn.Linear(channels * side * side, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return Network(nn.Sequential(*layers), nn.Linear(width, classes))


def stem_stride(side: int) -> int:
    """Stride of the first conv: 1 up to 48 px, 2 up to 96, 4 above."""
    return 1 if side <= 48 else 2 if side <= 96 else 4
