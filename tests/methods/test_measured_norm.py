"""Measuring batch norms, and teachers with them, against hooks on an untouched copy of the network and plain autograd."""

import copy

import pytest
import torch
import torch.nn.functional as F
from ddbench.methods.engines.decoupled.measured_norm import MeasuredNorm, Voter, saved_bytes
from small_tasks import logits_and_distance, normal, refused, small_resnet, statistics_distance, with_statistics
from torch import nn

from ddbench import networks
from ddbench.errors import UsageError
from ddbench.training.precision import Execution

F64 = torch.float64


def shaken(network):
    """The network in eval mode and float64, with batch norms that have something to say."""
    for number, norm in enumerate(m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        if norm.affine:
            norm.weight.data.copy_(normal(norm.num_features, seed=200 + number))
            norm.bias.data.copy_(normal(norm.num_features, seed=300 + number))
    return with_statistics(network)


class Late(nn.Module):
    """Norms that are called in another order than they are registered in, one of them with an activation in place."""

    def __init__(self):
        super().__init__()
        self.third, self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(3), nn.BatchNorm2d(4, affine=False)
        self.conv, self.relu, self.head = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Linear(4, 5)

    def forward(self, images):
        seen = self.relu(self.second(self.conv(self.first(images))))
        return self.head(self.relu(self.third(seen)).mean((2, 3)))


class WithActivation(nn.BatchNorm2d):
    """A norm that does more, as timm's BatchNormAct2d."""

    def forward(self, images):
        return F.silu(super().forward(images))


def acting():
    stem = [nn.Conv2d(3, 4, 3), WithActivation(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()]
    return nn.Sequential(*stem, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


def convnet():
    return networks.create("convnet-d2-w4-bn", channels=3, side=8, classes=5)


def resnet():
    return small_resnet(5)


def resnet18():
    return networks.create("resnet18", channels=3, side=8, classes=5)


NETWORKS = [Late, resnet, acting, convnet, resnet18]


# one norm


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("groups", [1, 3])
def test_a_norm_is_torchs_in_eval_mode_and_measures_its_input(affine, groups):
    norm = shaken(nn.BatchNorm2d(4, eps=0.01, affine=affine))
    images = 2 * normal(6, 4, 5, 3, seed=7) + 1
    measured = MeasuredNorm(norm, 1.0)
    measured.groups = groups
    wanted = F.batch_norm(images, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=0.01)
    torch.testing.assert_close(measured(images), wanted, rtol=1e-12, atol=1e-12)
    distances = torch.stack([statistics_distance(norm, part) for part in images.chunk(groups)])
    torch.testing.assert_close(measured.apart, distances, rtol=1e-12, atol=0)
    unmeasured = MeasuredNorm(norm, 0.0)
    torch.testing.assert_close(unmeasured(images), wanted, rtol=1e-12, atol=1e-12)
    assert unmeasured.apart is None


@pytest.mark.parametrize("read", ["value", "apart", "both"])
def test_a_norms_gradient_is_that_of_finite_differences(read):
    norm = shaken(nn.BatchNorm2d(2))
    measured = MeasuredNorm(norm, 1.0)
    measured.groups = 2

    def outputs(images):
        value = measured(images)
        return {"value": value, "apart": measured.apart, "both": (value, measured.apart)}[read]

    assert torch.autograd.gradcheck(outputs, normal(4, 2, 2, 3, seed=3).requires_grad_())


def test_where_a_distance_is_exactly_0_the_gradient_is_autograds():
    """Four groups: mean and variance as known, either of them, none."""
    norm = nn.BatchNorm2d(2).double().eval()  # mean 0, variance 1
    signs = torch.tensor([1.0, -1.0], dtype=F64).repeat(8).view(2, 2, 2, 2)
    images = torch.cat([signs, 2 * signs, signs + 1, 3 * signs + 1])
    per_group = torch.tensor([2.0, 3.0, 5.0, 7.0], dtype=F64)
    measured = MeasuredNorm(norm, 1.0)
    measured.groups = 4
    mine, theirs = images.clone().requires_grad_(), images.clone().requires_grad_()
    measured(mine)
    (per_group * measured.apart).sum().backward()
    terms = [statistics_distance(norm, part) for part in theirs.chunk(4)]
    (per_group * torch.stack(terms)).sum().backward()
    found = measured.apart.detach()
    assert found[0] == 0 and (found[1:] > 0).all()
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-12, atol=1e-15)
    assert torch.equal(mine.grad[:2], torch.zeros_like(signs)) and mine.grad[2:].abs().sum() > 0


# teachers


@pytest.mark.parametrize("make", NETWORKS)
def test_a_voter_is_its_definition_with_gradients(make):
    """Two groups with loss weights of their own; hooks see the groups one after another."""
    network = shaken(make())
    voter = Voter(copy.deepcopy(network))
    mine, theirs = (normal(4, 3, 8, 8, seed=1).requires_grad_() for _ in range(2))
    labels, shares = torch.tensor([0, 3, 1, 1]), torch.tensor([1.0, 0.3], dtype=F64)
    logits, apart = voter(mine, 2)
    parts = [logits_and_distance(network, part) for part in theirs.chunk(2)]
    torch.testing.assert_close(logits, torch.cat([part[0] for part in parts]), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(apart, torch.stack([part[1] for part in parts]), rtol=1e-11, atol=0)
    errors = F.cross_entropy(logits, labels, reduction="none").view(2, 2).mean(1)
    (shares * (errors + 0.1 * apart)).sum().backward()
    for share, (own, distance_), own_labels in zip(shares, parts, labels.chunk(2), strict=True):
        (share * (F.cross_entropy(own, own_labels) + 0.1 * distance_)).backward()
    assert theirs.grad.norm() > 0 and (mine.grad - theirs.grad).norm() < 1e-9 * theirs.grad.norm()


@pytest.mark.parametrize("make", [Late, resnet, resnet18])
def test_the_first_norm_is_the_first_that_is_registered(make):
    network = shaken(make())
    names = [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    voter = Voter(network)
    found = [name for name, module in network.named_modules() if isinstance(module, MeasuredNorm)]
    assert found == names and [network.get_submodule(name) for name in names] == voter.norms
    assert [norm.weight_of_norm for norm in voter.norms] == [10.0] + [1.0] * (len(names) - 1)
    assert len(names) == {Late: 3, resnet: 6, resnet18: 20}[make]


@pytest.mark.parametrize("skip", [(0,), (1,), (0, 2)])
def test_skipped_norms_are_not_measured_and_nobody_takes_their_place(skip):
    network = shaken(Late())
    images = normal(4, 3, 8, 8)
    voter = Voter(copy.deepcopy(network), skip)
    logits, apart = voter(images, 1)
    wanted, distance_ = logits_and_distance(network, images, skip)
    torch.testing.assert_close(logits, wanted, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(apart, distance_[None], rtol=1e-11, atol=0)


def test_teachers_stay_as_they_are():
    network = convnet().train()
    before = copy.deepcopy(network.state_dict())
    voter = Voter(network)
    for _ in range(2):
        logits, apart = voter(normal(4, 3, 8, 8, dtype=torch.float32).requires_grad_(), 2)
        (logits.sum() + apart.sum()).backward()
    assert not network.training and all(norm.apart is None for norm in voter.norms)
    after = network.state_dict()
    assert after.keys() <= before.keys() and all(torch.equal(after[key], before[key]) for key in after)
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())
    assert not any(tensor.requires_grad for norm in voter.norms for tensor in (norm.scale, norm.shift))


def test_float32_is_near_float64():
    network = convnet()
    images = normal(4, 3, 8, 8, dtype=torch.float32)
    logits, apart = Voter(copy.deepcopy(network))(images, 2)
    exact, distances = Voter(network.double())(images.double(), 2)
    torch.testing.assert_close(logits.double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(apart.double(), distances, rtol=1e-5, atol=0)


def outcome(voter, images):
    """Logits, BN(x) of two groups, and the gradient of a weighted sum of both."""
    leaf = images.clone().requires_grad_()
    logits, apart = voter(leaf, 2)
    (logits.square().sum() + apart.sum()).backward()
    return logits, apart, leaf.grad


def test_in_bf16_products_are_rounded_and_statistics_and_results_stay_float32():
    network, images = convnet(), normal(8, 3, 8, 8, dtype=torch.float32)
    exact = outcome(Voter(copy.deepcopy(network)), images)
    for rounded, value in zip(outcome(Voter(network, execution=Execution("bf16")), images), exact, strict=True):
        assert rounded.dtype == torch.float32 and not torch.equal(rounded, value)
        assert (rounded - value).norm() < 0.02 * value.norm()


def test_compiled_is_the_same_function_for_stacks_of_any_size():
    network = convnet()
    plain, compiled = Voter(copy.deepcopy(network)), Voter(network, execution=Execution(compiled=True))
    assert compiled._forward is not network and plain._forward is plain.network
    for count in (8, 4):
        images = normal(count, 3, 8, 8, dtype=torch.float32)
        for one, other in zip(outcome(compiled, images), outcome(plain, images), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "network",
    [
        networks.create("convnet-d1-w4", channels=3, side=8, classes=5),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
    ],
)
def test_a_teacher_that_cannot_be_measured_is_a_line(network):
    with refused("batch norm"):
        Voter(network)


def test_a_teacher_of_which_nothing_is_left_to_measure_is_refused():
    with pytest.raises(UsageError, match="batch norm"):
        Voter(convnet(), skip=(0, 1))


def test_the_bytes_that_a_forward_keeps_grow_with_the_images_and_leave_the_weights_out():
    voter = Voter(convnet())
    one, two, four = (saved_bytes(voter, torch.zeros(count, 3, 8, 8)) for count in (1, 2, 4))
    assert two - one > 4 * (4 * 64 + 4 * 16)  # the two norms' inputs at least
    assert four - two == 2 * (two - one)
