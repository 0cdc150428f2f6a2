"""Ghost batch norm: equal to the groups going through one after another."""

import copy

import pytest
import torch
from torch import nn

from ddbench import networks
from ddbench.networks.ghost_batch_norm import use_ghost_batch_norm


def pictures(count, channels=3, side=8):
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, channels, side, side, generator=generator, dtype=torch.float64)


def in_turn(norm, images, size):
    """The direct form: chunks through the plain layer, one after another."""
    return torch.cat([norm(part) for part in images.split(size)])


def compare(plain, images, size):
    """Values, gradients and buffers of a layer or network, grouped and in turn, twice in a row."""
    grouped = use_ghost_batch_norm(copy.deepcopy(plain), size)
    for module in (plain, grouped):
        module.train()
    for scale in (1.0, 1.7):
        ours, theirs = (scale * images).requires_grad_(), (scale * images).requires_grad_()
        result, wanted = grouped(ours), in_turn(plain, theirs, size)
        torch.testing.assert_close(result, wanted, rtol=1e-12, atol=1e-12)
        weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        for module, value in ((grouped, result), (plain, wanted)):
            module.zero_grad()
            (value * weights).sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-11, atol=1e-11)
        for one, two in zip(grouped.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(one.grad, two.grad, rtol=1e-11, atol=1e-11)
    one, two = grouped.state_dict(), plain.state_dict()
    assert list(one) == list(two)
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-12, atol=1e-12)
    return grouped


def trained_norm(**options):
    norm = nn.BatchNorm2d(3, **options).double()
    if norm.weight is not None:
        with torch.no_grad():
            norm.weight.copy_(torch.tensor([0.5, 2.0, -1.0]))
            norm.bias.copy_(torch.tensor([0.1, -0.2, 0.3]))
    if norm.running_mean is not None:
        norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
        norm.running_var.copy_(torch.tensor([0.5, 4.0, 1.5]))
        norm.num_batches_tracked.fill_(7)
    return norm


@pytest.mark.parametrize(("count", "size"), [(16, 8), (16, 4), (15, 4), (9, 8), (5, 1), (6, 6), (3, 8), (12, 12)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.3, "eps": 1e-3},
        {"momentum": None},
        {"affine": False},
        {"track_running_stats": False},
    ],
    ids=["plain", "momentum", "cumulative", "no-affine", "untracked"],
)
def test_a_layer_equals_its_groups_in_turn(count, size, options):
    compare(trained_norm(**options), pictures(count), size)


@pytest.mark.parametrize("name", ["resnet18", "convnet-d2-w8-bn", "mobilenetv2", "shufflenetv2"])
def test_a_network_equals_its_groups_in_turn(name):
    network = networks.create(name, channels=3, side=8, classes=10, seed=0).double()
    for part in network.modules():  # draws, which no form shares with the other
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    compare(network, pictures(10), 4)


def test_running_statistics_by_their_formula():
    norm = nn.BatchNorm2d(3, momentum=0.2).double()
    images = pictures(8)
    use_ghost_batch_norm(norm, 4)(images)
    first, second = (part.mean((0, 2, 3)) for part in images.split(4))
    torch.testing.assert_close(norm.running_mean, 0.8 * 0.2 * first + 0.2 * second)
    first, second = (part.transpose(0, 1).flatten(1).var(1) for part in images.split(4))
    torch.testing.assert_close(norm.running_var, 0.8**2 + 0.8 * 0.2 * first + 0.2 * second)
    assert norm.num_batches_tracked == 2


def test_eval_mode_does_not_change():
    network = networks.create("resnet18", channels=3, side=8, classes=10, seed=0).double().eval()
    images = pictures(10)
    before, names = network(images), list(network.state_dict())
    use_ghost_batch_norm(network, 4)
    assert torch.equal(network(images), before) and list(network.state_dict()) == names
    fresh = networks.create("resnet18", channels=3, side=8, classes=10, seed=1).double().eval()
    fresh.load_state_dict(network.state_dict())
    assert torch.equal(fresh(images), before)
    other = use_ghost_batch_norm(networks.create("resnet18", channels=3, side=8, classes=10, seed=2), 4).double().eval()
    other.load_state_dict(fresh.state_dict())
    assert torch.equal(other(images), before)


def test_a_second_call_changes_the_size():
    norm, images = trained_norm(), pictures(12)
    twice, once = (use_ghost_batch_norm(copy.deepcopy(norm), size) for size in (4, 6))
    use_ghost_batch_norm(twice, 6)
    assert torch.equal(twice(images), once(images)) and len(list(twice.modules())) == 2
    assert all(torch.equal(one, two) for one, two in zip(twice.buffers(), once.buffers(), strict=True))


def test_a_copy_is_independent():
    ghost = use_ghost_batch_norm(trained_norm(), 4)
    copy.deepcopy(ghost)(pictures(8))
    assert torch.equal(ghost.norm.running_mean, trained_norm().running_mean)


class NormWithMore(nn.BatchNorm2d):
    """A batch norm that does something of its own, as timm's with an activation do."""

    def forward(self, images):
        return super().forward(images).relu()


def test_a_batch_norm_with_more_to_it_goes_in_turn():
    norm = NormWithMore(3).double()
    grouped = compare(norm, pictures(10), 4)
    images = pictures(10)
    assert torch.equal(grouped.eval()(images), norm.eval()(images))


def test_timms_batch_norms():
    import timm

    network = timm.create_model("test_efficientnet", num_classes=10, drop_rate=0.0, drop_path_rate=0.0).double()
    compare(network, pictures(6, side=64), 3)


def test_a_group_of_one_value_is_refused_as_it_is_by_batch_norm():
    norm = use_ghost_batch_norm(nn.BatchNorm2d(3).double(), 1)
    with pytest.raises(ValueError, match="more than 1 value"):
        norm(pictures(4, side=1))


def test_single_precision_is_close():
    norm, images = nn.BatchNorm2d(3), pictures(16).float()
    grouped = use_ghost_batch_norm(copy.deepcopy(norm), 8)
    torch.testing.assert_close(grouped(images), in_turn(norm, images, 8), rtol=1e-5, atol=1e-6)
