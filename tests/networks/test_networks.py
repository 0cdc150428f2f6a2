"""Networks: published sizes, every shape, the embedding's meaning, names, and randomness by key."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from ddbench import networks
from ddbench.errors import UsageError
from ddbench.networks import canonical, create, describe, network_names, parameter_count
from ddbench.networks.parts import norm_layer

SHAPES = [(8, 1), (28, 1), (32, 3), (64, 3)]
LIGHT = ["convnet", "lenet", "mlp", "alexnet", "vgg11", "mobilenetv2", "shufflenetv2"]
HEAVY = ["resnet18", "resnet18-ap", "resnet50", "resnet101", "densenet121", "efficientnet-b0"]


def check_forward(name: str, side: int, channels: int) -> nn.Module:
    net = create(name, channels=channels, side=side, classes=7)
    images = torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0))
    assert net.training
    net.eval()
    with torch.no_grad():
        features, logits = net.embed(images), net(images)
    assert logits.shape == (2, 7) and logits.isfinite().all()
    assert isinstance(net.head, nn.Linear) and features.shape == (2, net.head.in_features)
    torch.testing.assert_close(net.head(features), logits)
    return net


@pytest.mark.parametrize(
    ("name", "side", "classes", "expected"),
    [
        ("convnet-d3", 32, 10, 320_010),
        ("convnet-d3", 32, 100, 504_420),
        ("convnet-d4", 64, 200, 857_160),
        ("convnet-d4", 64, 1000, 2_496_360),
        ("convnet-d5", 128, 10, 615_690),
        ("convnet", 128, 10, 615_690),
        # by hand: convs c_in * c_out * 9 (+ biases), norms 2 * c, linear layers
        ("vgg11", 32, 10, 9_231_114),
        ("lenet", 32, 10, (3 * 25 + 1) * 6 + (6 * 25 + 1) * 16 + 401 * 120 + 121 * 84 + 85 * 10),
        ("mlp", 32, 10, 3073 * 128 + 129 * 128 + 129 * 10),
        ("resnet18", 32, 10, 11_173_962),
    ],
)
def test_parameter_counts_are_the_published_ones(name, side, classes, expected):
    assert parameter_count(name, 3, side, classes) == expected


def test_parameter_count_is_that_of_the_network():
    for name in ("convnet-d2-w32-bn", "resnet18-ap", "torchvision:squeezenet1_0"):
        net = create(name, channels=3, side=32, classes=5)
        assert parameter_count(name, 3, 32, 5) == sum(weights.numel() for weights in net.parameters())


@pytest.mark.parametrize(("side", "channels"), SHAPES)
@pytest.mark.parametrize("name", LIGHT + HEAVY)
def test_every_network_takes_every_shape(name, side, channels):
    check_forward(name, side, channels)


@pytest.mark.parametrize("name", ["convnet", "vgg11", "alexnet", "resnet18", "resnet18-ap", "mobilenetv2", "lenet"])
def test_networks_take_128_px(name):
    check_forward(name, 128, 3)


@pytest.mark.parametrize("side", [8, 32])
@pytest.mark.parametrize("norm", ["in", "bn"])
@pytest.mark.parametrize("name", [name for name in LIGHT + HEAVY if name not in ("lenet", "mlp", "resnet101")])
def test_both_norms_replace_every_norm_and_see_more_than_one_pixel(name, norm, side):
    net = create(f"{name}-{norm}", channels=3, side=side, classes=3)
    kinds = {type(part) for part in net.modules() if isinstance(part, nn.BatchNorm2d | nn.GroupNorm)}
    assert kinds == {nn.GroupNorm if norm == "in" else nn.BatchNorm2d}
    sizes = []
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d | nn.GroupNorm):
            part.register_forward_hook(lambda part, inputs, output: sizes.append(inputs[0][0, 0].numel()))
    with torch.no_grad():
        net(torch.randn(2, 3, side, side))
    assert min(sizes) > 1  # one pixel per channel would be normalised to a constant


def test_instance_norm_is_its_definition():
    layer, maps = norm_layer("in", 4), torch.randn(3, 4, 5, 5)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    mean = maps.mean((2, 3), keepdim=True)
    variance = ((maps - mean) ** 2).mean((2, 3), keepdim=True)
    scaled = (maps - mean) / (variance + 1e-5).sqrt()
    expected = scaled * layer.weight.view(1, 4, 1, 1) + layer.bias.view(1, 4, 1, 1)
    torch.testing.assert_close(layer(maps), expected)


def test_convnet_is_its_definition():
    net = create("convnet-d2-w4", channels=3, side=8, classes=5)
    images = torch.randn(2, 3, 8, 8)
    weights = iter(net.parameters())
    maps = images
    for _ in range(2):
        maps = nn.functional.conv2d(maps, next(weights), next(weights), padding=1)
        maps = nn.functional.instance_norm(maps, weight=next(weights), bias=next(weights))
        maps = nn.functional.avg_pool2d(maps.clamp(min=0), 2)
    torch.testing.assert_close(net.embed(images), maps.flatten(1))
    torch.testing.assert_close(net(images), maps.flatten(1) @ next(weights).T + next(weights))
    assert next(weights, None) is None


def test_convnet_supports_second_derivatives():
    net = create("convnet-d2-w4", channels=1, side=8, classes=3).double()
    images = torch.randn(2, 1, 8, 8, dtype=torch.float64, requires_grad=True)

    def slope(images):
        loss = net(images).square().sum()
        return torch.autograd.grad(loss, list(net.parameters()), create_graph=True)

    assert torch.autograd.gradcheck(lambda x: sum(part.square().sum() for part in slope(x)), (images,), fast_mode=True)


def test_activations_are_modules_that_leave_their_input_alone():
    net = create("convnet-d3", channels=3, side=32, classes=10)
    assert sum(isinstance(part, nn.ReLU) for part in net.modules()) == 3
    for name in ("convnet", "resnet18", "mobilenetv2", "efficientnet-b0"):
        net = create(name, channels=3, side=32, classes=10)
        assert not any(getattr(part, "inplace", False) for part in net.modules())


def test_resnets_have_the_published_layers():
    net = create("resnet18", channels=3, side=32, classes=10)
    assert sum(isinstance(part, nn.BatchNorm2d) for part in net.modules()) == 20
    assert net.features.conv1.kernel_size == (3, 3) and net.features.conv1.stride == (1, 1)
    maps = []
    net.features.layer4.register_forward_hook(lambda part, inputs, output: maps.append(output.shape))
    net(torch.randn(2, 3, 32, 32))
    assert maps == [(2, 512, 4, 4)]
    large = create("resnet18", channels=3, side=128, classes=10)
    assert large.features.conv1.kernel_size == (7, 7) and isinstance(large.features.maxpool, nn.MaxPool2d)
    pooled = create("resnet18-ap", channels=3, side=32, classes=10)
    assert pooled.head.in_features == 512 * 4 * 4
    assert all(part.stride == (1, 1) for part in pooled.modules() if isinstance(part, nn.Conv2d))


def test_same_key_same_weights_and_torchs_generator_untouched():
    def weights(seed, *key):
        net = create("convnet-d2-w8", channels=1, side=8, classes=3, seed=seed, key=key)
        return torch.cat([part.flatten() for part in net.parameters()])

    before = torch.get_rng_state()
    first = weights(0, "student", 1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    assert torch.equal(first, weights(0, "student", 1))
    assert not torch.equal(first, weights(1, "student", 1))
    assert not torch.equal(first, weights(0, "student", 2))


@pytest.mark.parametrize(
    ("name", "side", "expected"),
    [
        ("convnet", 8, "convnet-d2"),
        ("convnet", 16, "convnet-d2"),
        ("convnet", 28, "convnet-d3"),
        ("convnet", 48, "convnet-d3"),
        ("convnet", 64, "convnet-d4"),
        ("convnet", 128, "convnet-d5"),
        ("convnet-d3-w128-in", 32, "convnet-d3"),
        ("convnet-w32-bn", 32, "convnet-d3-w32-bn"),
        ("convnet-none", 8, "convnet-d2-none"),
        ("resnet18-bn", 32, "resnet18"),
        ("resnet18-ap-in", 32, "resnet18-ap-in"),
        ("efficientnet-b0", 32, "efficientnet-b0"),
        ("alexnet-none", 32, "alexnet"),
        ("torchvision:resnet18", 32, "torchvision:resnet18"),
    ],
)
def test_canonical_names(name, side, expected):
    assert canonical(name, side=side) == expected
    assert canonical(expected, side=side) == expected


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("convnet-d9", "did you mean"),
        ("convnet-in-w32", "grammar"),
        ("convnet-d3-w0", "unknown network"),
        ("ConvNet", "unknown network"),
        ("", "unknown network"),
        ("resnet18-w32", "width"),
        ("lenet-bn", "norms of lenet are none"),
        ("keras:resnet18", "timm or torchvision"),
        ("torchvision:resnet19", "did you mean resnet18"),
        ("timm:resnet1", "did you mean resnet18"),
    ],
)
def test_unknown_names_are_refused_in_one_line(name, words):
    with pytest.raises(UsageError, match=words) as error:
        canonical(name, side=32)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "side", "least"), [("convnet-d4", 8, 16), ("convnet-d6", 32, 64), ("alexnet", 4, 8), ("lenet", 2, 4)]
)
def test_a_network_that_pools_too_often_says_what_it_needs(name, side, least):
    with pytest.raises(UsageError, match=f"at least {least} px"):
        create(name, channels=1, side=side, classes=3)
    create(name, channels=1, side=least, classes=3)


def test_library_networks_split_where_one_linear_layer_is_last():
    for name, channels in (("torchvision:resnet18", 1), ("timm:resnet10t", 3)):
        check_forward(name, 32, channels)
    plain = create("torchvision:squeezenet1_0", channels=3, side=32, classes=7)
    assert not hasattr(plain, "head") and plain.training and plain(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    with pytest.raises(UsageError, match="does not work at 16 px") as error:
        create("torchvision:alexnet", channels=3, side=16, classes=7)
    assert "\n" not in str(error.value)


def test_cards_name_every_network():
    cards = [describe(name) for name in network_names()]
    assert [card.name for card in cards] == list(network_names())
    assert all(card.description and card.source for card in cards)
    assert describe("convnet-d3").norm == "in" and describe("convnet-d3-bn").norm == "bn"
    assert describe("torchvision:resnet18").source == "torchvision"
    assert set(networks.__all__) <= set(dir(networks))


def test_names_need_no_torch():
    code = "import sys, ddbench.networks as n; [n.describe(x) for x in n.network_names()]; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_network_of_a_package_is_one_like_ours(toys):
    assert network_names()[-2:] == ("toy-layers", "toy-no-network") and "toyparts" not in sys.modules
    assert canonical("toy-layers-w16-none", side=8) == "toy-layers" and describe("toy-layers").norm == "none"
    assert parameter_count("toy-layers-w4", 1, 8, 3) == 65 * 4 + 5 * 3
    check_forward("toy-layers", 8, 1)
    with pytest.raises(UsageError, match="did you mean toy-layers"):
        canonical("toy-layer", side=8)
    with pytest.raises(UsageError, match="not of Architecture"):
        describe("toy-no-network")
