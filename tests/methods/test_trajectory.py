"""The trajectory-matching gradient against an independent definition: every step written out, plain autograd."""

import math

import pytest
import torch
import torch.nn.functional as F
from ddbench.methods.engines.trajectory.flat import FlatNetwork, flatten
from ddbench.methods.engines.trajectory.gradient import (
    InnerStep,
    Segment,
    Synthetic,
    TrajectoryEngine,
    _functional_backward,
    part_backward,
)
from torch.func import functional_call

from ddbench import networks
from ddbench.augment import DSA
from ddbench.errors import JobFailed

CLASSES, SIDE = 4, 16


@pytest.fixture(scope="module")
def network():
    return networks.create("convnet-d3-w6", channels=3, side=SIDE, classes=CLASSES, seed=3).double()


def case(network, *, steps=10, images=8, batch=3, momentum=0.0, scale=1.0, logits=False, middle=False, alpha=0.05):
    """A problem with everything at random: batches, augmentation, soft labels."""
    g = torch.Generator().manual_seed(steps + images)

    def noise(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    start = flatten(network)
    targets = {steps: start + 0.05 * noise(len(start))}
    if middle:
        targets = {steps // 2: start + 0.03 * noise(len(start)), **targets}
    inner = []
    for _ in range(steps):
        index = torch.randperm(images, generator=g)[:batch]
        inner.append(InnerStep(index, DSA().draw(batch, SIDE, g)))
    labels = noise(images, CLASSES)
    synthetic = Synthetic(noise(images, 3, SIDE, SIDE), labels if logits else labels.softmax(1), alpha, logits)
    return Segment(start, targets, inner, momentum, scale), synthetic


def written_out(network, segment, synthetic, *, frozen=False):
    """L and its gradients from the definition; `frozen`: TESLA's, where a step's gradient treats weights as constants."""
    images = synthetic.images.clone().requires_grad_()
    labels = synthetic.labels.clone().requires_grad_()
    alpha = torch.tensor(synthetic.syn_lr, dtype=torch.float64, requires_grad=True)
    weights = [w.detach().clone().requires_grad_() for w in network.parameters()]
    names = [name for name, _ in network.named_parameters()]
    momenta, loss = [torch.zeros_like(w) for w in weights], 0.0
    for i, step in enumerate(segment.steps):
        x = DSA().apply(images[step.index], step.drawn)
        p = F.softmax(labels[step.index], 1) if synthetic.logits else labels[step.index]
        here = [w.detach().requires_grad_() for w in weights] if frozen else weights
        logits = functional_call(network, dict(zip(names, here, strict=True)), (x,))
        value = -segment.scale * (p * F.log_softmax(logits, 1)).sum(1).mean()
        gradients = torch.autograd.grad(value, here, create_graph=True)
        momenta = [segment.momentum * m + g for m, g in zip(momenta, gradients, strict=True)]
        weights = [w - alpha * m for w, m in zip(weights, momenta, strict=True)]
        if i + 1 in segment.targets:
            target = segment.targets[i + 1]
            flat = torch.cat([w.reshape(-1) for w in weights])
            loss = loss + ((flat - target) ** 2).sum() / ((segment.start - target) ** 2).sum()
    return float(loss.detach()), torch.autograd.grad(loss, (images, labels, alpha), allow_unused=True)


def relative(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


PROBLEMS = {
    "plain": {},
    "logits": {"logits": True},
    "momentum": {"momentum": 0.9, "alpha": 0.01},
    "everything": {"momentum": 0.9, "alpha": 0.01, "logits": True, "middle": True, "scale": 0.7},
}


@pytest.mark.parametrize("mode", ["adjoint", "unrolled", "truncated"])
@pytest.mark.parametrize("kind", PROBLEMS)
def test_a_mode_is_its_definition(network, mode, kind):
    """The gradient of the loss, exactly; truncated is another."""
    segment, synthetic = case(network, **PROBLEMS[kind])
    loss, wanted = written_out(network, segment, synthetic, frozen=mode == "truncated")
    rollout = TrajectoryEngine(FlatNetwork(network), DSA(), mode).roll(segment, synthetic)
    found = rollout.gradient()
    assert math.isclose(rollout.loss, loss, rel_tol=1e-12)
    assert relative(found.images, wanted[0]) < 1e-9
    assert abs(found.syn_lr - float(wanted[2])) < 1e-9 * abs(float(wanted[2]))
    assert relative(found.labels, wanted[1]) < 1e-9 if synthetic.logits else found.labels is None
    if mode == "truncated":
        assert relative(found.images, written_out(network, segment, synthetic)[1][0]) > 1e-3


def test_truncated_mode_has_the_closed_form_of_the_paper(network):
    """dL/dx_i = (2 / D) d/dx_i [v . g_i], v = alpha (theta* - theta_0) + alpha^2 G: with the 2 of the square."""
    segment, synthetic = case(network, steps=4, images=3, batch=3)
    flat, alpha = FlatNetwork(network), synthetic.syn_lr
    gradients, vector = [], segment.start
    leaves = []
    for step in segment.steps:
        x = synthetic.images.clone().requires_grad_()
        leaf = vector.clone().requires_grad_()
        value = F.cross_entropy(flat(leaf, DSA().apply(x[step.index], step.drawn)), synthetic.labels[step.index])
        (g,) = torch.autograd.grad(value, leaf, create_graph=True)
        gradients.append(g)
        leaves.append(x)
        vector = vector - alpha * g.detach()
    total = sum(g.detach() for g in gradients)
    target = segment.targets[4]
    distance = (segment.start - target).square().sum()
    v = alpha * (target - segment.start) + alpha**2 * total
    by_images = sum(2 / distance * torch.autograd.grad(v @ g, x)[0] for g, x in zip(gradients, leaves, strict=True))
    by_alpha = 2 / distance * ((segment.start - alpha * total - target) @ -total)
    found = TrajectoryEngine(flat, DSA(), "truncated").roll(segment, synthetic).gradient()
    assert relative(found.images, by_images) < 1e-10
    assert math.isclose(found.syn_lr, float(by_alpha), rel_tol=1e-10)


@pytest.mark.parametrize("mode", ["adjoint", "unrolled"])
def test_gradients_agree_with_finite_differences(network, mode):
    segment, synthetic = case(network, steps=4, images=4, batch=2, logits=True)
    engine = TrajectoryEngine(FlatNetwork(network), DSA(), mode)
    found = engine.roll(segment, synthetic).gradient()
    g = torch.Generator().manual_seed(0)
    way = torch.randn(synthetic.images.shape, generator=g, dtype=torch.float64)
    soft = torch.randn(synthetic.labels.shape, generator=g, dtype=torch.float64)
    h = 1e-6

    def at(sign):
        moved = Synthetic(
            synthetic.images + sign * h * way, synthetic.labels + sign * h * soft, synthetic.syn_lr + sign * h, True
        )
        return engine.roll(segment, moved).loss

    slope = (at(1) - at(-1)) / (2 * h)
    predicted = float((found.images * way).sum() + (found.labels * soft).sum()) + found.syn_lr
    assert math.isclose(slope, predicted, rel_tol=1e-5)


def test_float32_agrees_with_float64(network):
    segment, synthetic = case(network)
    exact = TrajectoryEngine(FlatNetwork(network), DSA()).roll(segment, synthetic).gradient()
    single = networks.create("convnet-d3-w6", channels=3, side=SIDE, classes=CLASSES, seed=3)
    single.load_state_dict({name: value.float() for name, value in network.state_dict().items()})
    narrow = Segment(segment.start.float(), {k: t.float() for k, t in segment.targets.items()}, segment.steps)
    images = Synthetic(synthetic.images.float(), synthetic.labels.float(), synthetic.syn_lr)
    for mode in ("adjoint", "unrolled"):
        found = TrajectoryEngine(FlatNetwork(single), DSA(), mode).roll(narrow, images).gradient()
        assert relative(found.images.double(), exact.images) < 1e-4
        assert abs(found.syn_lr - exact.syn_lr) < 1e-4 * abs(exact.syn_lr)


def test_the_form_that_compiles_gives_the_same(network):
    segment, synthetic = case(network)
    step, flat = segment.steps[0], FlatNetwork(network)
    direction = torch.randn(flat.size, dtype=torch.float64)
    inputs = (segment.start, synthetic.images[step.index], synthetic.labels[step.index], torch.tensor(0.7), direction)
    for found, wanted in zip(_functional_backward(flat, *inputs), part_backward(flat, *inputs), strict=True):
        assert relative(found, wanted) < 1e-12


def test_the_problem_is_left_as_it_was(network):
    segment, synthetic = case(network, logits=True)
    kept = [synthetic.images.clone(), synthetic.labels.clone(), segment.start.clone()]
    TrajectoryEngine(FlatNetwork(network), DSA()).roll(segment, synthetic).gradient()
    for before, after in zip(kept, (synthetic.images, synthetic.labels, segment.start), strict=True):
        assert torch.equal(before, after) and not after.requires_grad


def test_experts_that_did_not_move_are_refused(network):
    segment, synthetic = case(network)
    still = Segment(segment.start, {10: segment.start.clone()}, segment.steps)
    with pytest.raises(JobFailed, match="same at both ends"):
        TrajectoryEngine(FlatNetwork(network), DSA()).roll(still, synthetic)


def test_a_loss_that_is_not_finite_ends_the_job(network):
    segment, synthetic = case(network, alpha=1e200)
    with pytest.raises(JobFailed, match="diverged"):
        TrajectoryEngine(FlatNetwork(network), DSA()).roll(segment, synthetic)


def test_a_flat_network_is_the_network(network):
    images = torch.randn(5, 3, SIDE, SIDE, dtype=torch.float64)
    flat = FlatNetwork(network)
    assert flat.size == sum(p.numel() for p in network.parameters())
    assert torch.equal(flat(flatten(network), images), network(images))
    inside = torch.cat([torch.arange(flat.size)[part] for part in flat.kernels().values()])
    assert len(inside) == sum(p.numel() for p in network.parameters() if p.ndim == 4)
