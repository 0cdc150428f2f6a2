"""Class activation maps against their definitions: by autograd on the maps themselves, and W_c . A."""

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from ddbench.methods.engines.decoupled import cam as module
from ddbench.methods.engines.decoupled.cam import ActivationMaps, enlarged, mapped_part, require_maps, window_shares
from small_tasks import a_task, refused, with_statistics
from torch import nn

from ddbench import networks
from ddbench.randomness import rng

SIDE, CLASSES = 32, 6
POOLED = {"resnet18": 32, "torchvision:resnet18": 64, "timm:resnet18": 64}
"""Those that end in a global pool and one linear layer -> a side at which the pooled maps have some pixels."""


def a_network(name, side=SIDE, channels=3):
    """With statistics as after a training, in float64."""
    return with_statistics(networks.create(name, channels=channels, side=side, classes=CLASSES, seed=1))


def images_of(count=5, side=SIDE, channels=3):
    return torch.randn(count, channels, side, side, generator=rng(0, "images"), dtype=torch.float64)


def labels_of(count=5):
    return torch.arange(count) % CLASSES


def kept_output(network, part, images):
    """What a part of a network gives in a forward."""
    found = []
    hook = part.register_forward_hook(lambda part, given, output: found.append(output))
    network(images)
    hook.remove()
    return found[-1]


@pytest.mark.parametrize("name", POOLED)
def test_with_a_global_pool_and_a_linear_head_it_is_cam(name):
    side = POOLED[name]
    network, images = a_network(name, side), images_of(3, side)
    with torch.no_grad():
        maps = kept_output(network, network.get_submodule("features.layer4"), images)
        labels = (network(images) - network.head.bias).argmax(1)  # of a class whose map has a positive sum
    assert maps[0, 0].numel() > 1
    wanted = torch.einsum("bd,bdhw->bhw", network.head.weight[labels], maps).detach()
    found = ActivationMaps(network).raw(images, labels)
    torch.testing.assert_close(found * maps[0, 0].numel(), wanted, rtol=1e-9, atol=1e-12)
    for own, one in zip(ActivationMaps(network)(images, labels), wanted, strict=True):
        positive = one.clamp(min=0)
        large = F.interpolate(
            (positive / positive.max())[None, None], (side, side), mode="bilinear", align_corners=False
        )
        assert positive.max() > 0
        torch.testing.assert_close(own, large[0, 0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "name", ["convnet-d2-w8-bn", "convnet-d3-w8", "lenet", "mobilenetv2", "torchvision:densenet121"]
)
def test_it_is_the_gradient_times_the_maps_written_out(name):
    """Split in two by hand: what comes after the maps as a function of them, by autograd, one image at a time."""
    network, images, labels = a_network(name), images_of(3), labels_of(3)
    part = mapped_part(network, images[:1])
    found = ActivationMaps(network).raw(images, labels)
    for image, label, mine in zip(images, labels.tolist(), found, strict=True):
        maps = kept_output(network, part, image[None].clone()).detach().requires_grad_()
        hook = part.register_forward_hook(lambda part, given, output, maps=maps: maps.clone())
        score = network(image[None])[0, label]
        hook.remove()
        (gradient,) = torch.autograd.grad(score, maps)
        wanted = torch.zeros(mine.shape, dtype=torch.float64)
        for k in range(maps.shape[1]):
            wanted += maps[0, k].detach() * gradient[0, k]
        assert wanted.abs().max() > 0 and mine.numel() > 1
        torch.testing.assert_close(mine, wanted, rtol=1e-9, atol=1e-12)


def test_of_a_flattened_head_every_place_has_its_own_weights():
    network, images, labels = a_network("convnet-d2-w8-bn"), images_of(), labels_of()
    with torch.no_grad():
        maps = network.features(images)
    weights = network.head.weight[labels].unflatten(1, maps.shape[1:]).detach()
    torch.testing.assert_close(ActivationMaps(network).raw(images, labels), (weights * maps).sum(1))
    # a linear head: the map adds up to the logit without its bias
    logits = network(images).gather(1, labels[:, None])[:, 0] - network.head.bias[labels]
    torch.testing.assert_close(ActivationMaps(network).raw(images, labels).sum((1, 2)), logits.detach())


def test_the_last_maps_have_more_than_one_pixel():
    network = a_network("convnet-d3-w8", side=8)
    assert network.features(images_of(1, side=8)).shape[-1] == 1
    part = mapped_part(network, images_of(1, side=8))
    assert isinstance(part, nn.ReLU) and kept_output(network, part, images_of(1, side=8)).shape[-2:] == (2, 2)


def test_a_batch_is_its_images_one_by_one(monkeypatch):
    network, images, labels = a_network("convnet-d3-w8-bn"), images_of(7), labels_of(7)
    maps = ActivationMaps(network)
    whole = maps(images, labels)
    alone = torch.cat([maps(image[None], label[None]) for image, label in zip(images, labels, strict=True)])
    torch.testing.assert_close(whole, alone, rtol=1e-9, atol=1e-12)
    monkeypatch.setattr(module, "AT_ONCE", 3)
    torch.testing.assert_close(maps(images, labels), whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_are_in_the_unit_interval_and_the_class_matters(dtype):
    network, images = a_network("convnet-d3-w8-bn").to(dtype), images_of(6).to(dtype)
    maps = ActivationMaps(network)
    found = maps(images, labels_of(6))
    assert found.shape == (6, SIDE, SIDE) and found.dtype == dtype and not found.requires_grad
    assert found.min() >= 0 and found.max() <= 1 and found.amax((1, 2)).max() > 0.5
    assert not torch.equal(found, maps(images, (labels_of(6) + 1) % CLASSES))


def test_the_highest_is_one_and_a_map_without_a_positive_part_stays_zero():
    maps = torch.tensor([[[-1.0, 2.0], [4.0, 1.0]], [[-1.0, -2.0], [-3.0, 0.0]], [[0.0, 0.0], [0.0, 1e-30]]])
    same = enlarged(maps, (2, 2))
    assert same.tolist() == [[[0.0, 0.5], [1.0, 0.25]], [[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]]
    large = enlarged(maps, (4, 4))
    corners = large[0, ::3, ::3]  # align_corners False: the corners are the map's own
    assert corners.tolist() == [[0.0, 0.5], [1.0, 0.25]]
    assert float(large[0, 0, 1]) == pytest.approx(0.75 * 0 + 0.25 * 0.5)


def test_no_gradient_reaches_the_teacher_or_the_images_and_no_hook_is_left():
    network, images = a_network("convnet-d2-w8-bn"), images_of().requires_grad_()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        found = ActivationMaps(network)(images, labels_of())
    assert not found.requires_grad and images.grad is None
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(part._forward_hooks for part in network.modules())


def test_a_network_without_maps_is_a_line_before_it_is_trained():
    task = a_task(network="mlp")
    with refused("no feature maps"):
        require_maps(task, ["mlp"])
    require_maps(task, ["convnet-d2-w4-bn", "resnet18"])


@pytest.mark.parametrize("mean", [False, True])
def test_shares_of_windows_are_sums_over_their_pixels(mean):
    maps = torch.rand(4, 9, 9, generator=rng(0, "maps"))
    maps[3] = 0
    top, left = torch.randint(0, 5, (2, 4, 6), generator=rng(0, "corners"))
    size = torch.randint(1, 5, (2, 4, 6), generator=rng(0, "sizes"))
    boxes = torch.stack([top, left, *size], dim=2)
    found = window_shares(maps, boxes, mean=mean)
    for i, n in product(range(4), range(6)):
        y, x, h, w = boxes[i, n].tolist()
        inside = math.fsum(maps[i, y : y + h, x : x + w].flatten().tolist())
        total = h * w if mean else math.fsum(maps[i].flatten().tolist())
        assert float(found[i, n]) == pytest.approx(inside / total if total else 0.0, abs=1e-12)
