"""The recover engine against a plain loop, one problem at a time; stacked, stopped, gone on with, and diverged."""

import math

import pytest
import torch
import torch.nn.functional as F
from ddbench.methods.engines.decoupled.measured_norm import Voter
from ddbench.methods.engines.decoupled.recover import ImageBlock, RecoverFields, Recovery, lower_bound
from pydantic import ValidationError
from torch import nn
from torchvision.models.resnet import BasicBlock
from watching import StopAt, Stopped

from ddbench import networks
from ddbench.budget import Budget
from ddbench.data.dataset import Dataset, memory_split
from ddbench.distillation.snapshots import Snapshots
from ddbench.distillation.task import Task
from ddbench.errors import JobFailed, UsageError
from ddbench.progress import Reporter
from ddbench.training.checkpoints import Checkpoint
from ddbench.training.precision import Execution

SEED, F64 = 5, torch.float64
BOUNDS = (torch.tensor([-2.0, -1.0, -1.5])[:, None, None], torch.tensor([1.0, 2.0, 1.5])[:, None, None])


def a_task(checkpoint=None, reporter=None, flip=True, side=8, snapshots=None):
    pixels = torch.zeros(6, 3, side, side, dtype=torch.uint8)
    split = memory_split(pixels, torch.arange(6))
    data = Dataset("toy", tuple("abcdef"), 3, side, flip, (0.5,) * 3, (0.25,) * 3, split, split)
    device = torch.device("cpu")
    about = {"checkpoint": checkpoint, "reporter": reporter, "snapshots": snapshots}
    return Task(data, Budget(ipc=1), "convnet-d1-w4-bn", SEED, device, **about)


def fields_of(**changes):
    given = {"iterations": 20, "recover_lr": 0.25, "r_bn": 0.1, "roll": (0, 2), **changes}
    return RecoverFields.model_validate(given)


def random(*shape, seed=0, dtype=F64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def a_network(kind="convnet", seed=0, dtype=F64):
    """A teacher; equal arguments give equal ones."""
    if kind == "convnet":
        network = networks.create("convnet-d2-w4-bn", channels=3, side=8, classes=6, seed=seed)
    else:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            branch = nn.Sequential(nn.Conv2d(4, 6, 1, stride=2, bias=False), nn.BatchNorm2d(6))
            stem = [nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True)]
            blocks = [BasicBlock(4, 6, stride=2, downsample=branch), BasicBlock(6, 6)]
            network = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 6))
    for number, norm in enumerate(module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.running_mean.copy_(0.2 * random(norm.num_features, seed=seed + number))
        norm.running_var.copy_(0.5 + random(norm.num_features, seed=seed + 50 + number).square())
    return network.to(dtype).eval()


def bounds_of(dtype=F64):
    return BOUNDS[0].to(dtype), BOUNDS[1].to(dtype)


def a_problem(*key, images=3, seed=0, votes=None, dtype=F64):
    start = random(images, 3, 8, 8, seed=seed + 10, dtype=dtype)
    return ImageBlock(key, (torch.arange(images) + seed) % 6, start, votes or {"one": 1.0})


def recover(problems, fields, *, voters=None, task=None, dtype=F64, bounded=True, **options):
    voters = {"one": a_network(dtype=dtype)} if voters is None else voters
    bounds = bounds_of(dtype) if bounded else None
    engine = Recovery(task or a_task(), fields, {name: Voter(net) for name, net in voters.items()}, bounds, **options)
    return engine.run(problems)


def statistics_distance(network, run):
    """BN(x) of a forward, by hooks on all batch norms in the order of the modules."""
    seen, hooks = [], []
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        hooks.append(norm.register_forward_pre_hook(lambda norm, inputs: seen.append((norm, inputs[0]))))
    logits = run()
    for hook in hooks:
        hook.remove()
    order = {norm: place for place, norm in enumerate(m for m in network.modules() if isinstance(m, nn.BatchNorm2d))}
    total = 0
    for norm, x in seen:
        mean, var = x.mean((0, 2, 3)), x.transpose(0, 1).flatten(1).var(dim=1, unbiased=False)
        r = (norm.running_var - var).norm() + (norm.running_mean - mean).norm()
        total = total + (10 * r if order[norm] == 0 else r)
    return logits, total


def by_hand(problem, fields, teachers, *, bounded=True, compensate=False, flip=True, steps=None):
    """One problem alone: torch's Adam, cosine by step t / T, clamp, un-squared norms, last iterate, or that of a step."""
    draws_of = Recovery(a_task(flip=flip), fields, {}, None)
    x = (torch.zeros_like(problem.start[:1]) if compensate else problem.start.clone()).requires_grad_()
    optimiser = torch.optim.Adam([x], lr=1.0, betas=(0.5, 0.9), eps=1e-8)
    for t in range(fields.iterations if steps is None else steps):
        optimiser.param_groups[0]["lr"] = fields.recover_lr * 0.5 * (1 + math.cos(math.pi * t / fields.iterations))
        draws, at = draws_of.draws(problem, t // 100), t % 100
        seen = problem.start + x if compensate else x
        if draws.boxes is not None:
            top, left, height, width = draws.boxes[at].tolist()
            window = seen[:, :, top : top + height, left : left + width]
            seen = F.interpolate(window, (8, 8), mode="bilinear", align_corners=False)
            seen = seen.flip(3) if draws.flips[at] else seen
        seen = torch.roll(seen, draws.rolls[at].tolist(), (2, 3))
        loss = 0
        for name, weight in problem.votes.items():
            logits, distance = statistics_distance(teachers[name], lambda name=name, s=seen: teachers[name](s))
            loss = loss + weight * (F.cross_entropy(logits, problem.labels) + fields.r_bn * distance)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if bounded:
            for channel in range(3):
                x.data[:, channel].clamp_(float(BOUNDS[0][channel]), float(BOUNDS[1][channel]))
    return x.detach()


def off(found, wanted, start):
    """How far two results are apart, in lengths of the way that was gone."""
    way = (wanted - start).norm()
    assert way > 0.1 * math.sqrt(wanted.numel())
    return float((found - wanted).norm() / way)


# the objective and the optimiser


@pytest.mark.parametrize("kind", ["convnet", "resnet"])
@pytest.mark.parametrize("changes", [{}, {"crop": False, "r_bn": 0.01}, {"roll": (-3, 3), "curriculum": "cosine"}])
def test_the_engine_is_the_loop_written_out(kind, changes):
    problems = [a_problem("a", 0, seed=1), a_problem("a", 1, seed=2)]
    fields = fields_of(**changes)
    found = recover(problems, fields, voters={"one": a_network(kind)})
    for problem, images in zip(problems, found, strict=True):
        assert off(images, by_hand(problem, fields, {"one": a_network(kind)}), problem.start) < 1e-9
        low, high = bounds_of()
        assert (images >= low).all() and (images <= high).all()
        assert (images == low).any() and (images == high).any()


def test_images_that_a_flip_changes_are_not_flipped():
    fields, problem = fields_of(), a_problem(0)
    found = recover([problem], fields, task=a_task(flip=False))
    assert off(found[0], by_hand(problem, fields, {"one": a_network()}, flip=False), problem.start) < 1e-9
    assert off(found[0], by_hand(problem, fields, {"one": a_network()}), problem.start) > 1e-3


def test_a_run_of_several_windows_of_draws():
    fields, problem = fields_of(iterations=103), a_problem(0)
    found = recover([problem], fields)
    assert off(found[0], by_hand(problem, fields, {"one": a_network()}), problem.start) < 1e-9


def test_compensators_are_shared_by_all_images_and_never_clamped():
    problems = [a_problem("m", 0, seed=1), a_problem("m", 1, seed=2)]
    fields = fields_of(crop=False, recover_lr=0.5, r_bn=1.0)
    before = [problem.start.clone() for problem in problems]
    found = recover(problems, fields, compensate=True, bounded=False)
    for problem, learned, start in zip(problems, found, before, strict=True):
        assert learned.shape == (1, 3, 8, 8) and torch.equal(problem.start, start)
        wanted = by_hand(problem, fields, {"one": a_network()}, compensate=True, bounded=False)
        assert off(learned, wanted, torch.zeros_like(wanted)) < 1e-9
        assert (start + learned).abs().max() > 2  # beyond what pixels may be


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.98, 0.02)])
def test_several_voters_by_their_weights(weights):
    teachers = {"one": a_network(), "two": a_network("resnet", seed=3)}
    problem = a_problem(0, votes=dict(zip(teachers, weights, strict=True)))
    fields = fields_of()
    found = recover([problem], fields, voters={"two": a_network("resnet", seed=3), "one": a_network()})
    assert off(found[0], by_hand(problem, fields, teachers), problem.start) < 1e-9


# stacks


@pytest.mark.parametrize(("kind", "at_once"), [("convnet", None), ("convnet", 2), ("resnet", 5)])
def test_problems_in_a_stack_are_as_if_alone(kind, at_once):
    problems = [a_problem(0, k, seed=k) for k in range(5)]
    fields = fields_of()
    together = recover(problems, fields, voters={"one": a_network(kind)}, at_once=at_once)
    for problem, images in zip(problems, together, strict=True):
        (alone,) = recover([problem], fields, voters={"one": a_network(kind)})
        assert off(images, alone, problem.start) < 1e-9


def test_what_is_asked_comes_back_in_its_order_whatever_is_alike():
    """Problems of two sizes and two ballots, in turn."""
    kinds = [{"one": 1.0}, {"one": 0.3, "two": 0.7}]
    problems = [a_problem(k, images=3 - k % 2, seed=k, votes=kinds[k // 2 % 2]) for k in range(6)]
    fields = fields_of(iterations=5)

    def voters():
        return {"one": a_network(), "two": a_network(seed=4)}

    found = recover(problems, fields, voters=voters())
    for problem, images in zip(problems, found, strict=True):
        assert images.shape == problem.start.shape
        (alone,) = recover([problem], fields, voters=voters())
        assert off(images, alone, problem.start) < 1e-9


@pytest.mark.parametrize(
    ("images", "side", "stacks"),
    [(10, 32, [10, 10, 4]), (100, 32, [1] * 24), (50, 32, [2] * 12), (100, 64, [1] * 24), (2, 8, [24])],
)
def test_a_stack_is_no_larger_than_what_keeps_a_cpu_busy(images, side, stacks):
    voters = {"one": Voter(a_network("resnet", dtype=torch.float32))}
    engine = Recovery(a_task(side=side), fields_of(), voters, None)
    start, labels = torch.zeros(images, 3, side, side), torch.zeros(images, dtype=torch.int64)
    found = [*engine._stacks([ImageBlock((k,), labels, start, {"one": 1.0}) for k in range(24)])]
    assert [len(members) for members in found] == stacks and [i for members in found for i in members] == [*range(24)]


@pytest.mark.parametrize("compensate", [False, True])
def test_images_may_begin_when_they_are_needed_and_be_kept_in_another_form(compensate):
    """No more than a stack's are in memory; what is kept is what comes back, whether or not there was a stop."""
    ready = [a_problem(k, seed=k) for k in range(5)]
    begun = []

    def later(problem):
        def start():
            begun.append(problem.key)
            return problem.start

        return ImageBlock(problem.key, problem.labels, start, problem.votes)

    options = {"at_once": 2, "compensate": compensate, "bounded": not compensate}
    wanted = recover(ready, fields_of(iterations=5), **options)
    engine = Recovery(
        a_task(reporter=(steps := StopAt(7))),
        fields_of(iterations=5),
        {"one": Voter(a_network())},
        None if compensate else bounds_of(),
        compensate=compensate,
        at_once=2,
    )
    with pytest.raises(Stopped):
        engine.run([later(problem) for problem in ready])
    assert set(begun) == {(0,), (1,), (2,), (3,)} and steps.seen == [*range(1, 8)]
    engine.task = a_task()
    found = engine.run([later(problem) for problem in ready], lambda learned: (100 * learned).to(torch.int16))
    assert [images.dtype for images in found] == [torch.int16] * 5
    assert all(torch.equal(one, (100 * two).to(torch.int16)) for one, two in zip(found, wanted, strict=True))


# the curriculum


@pytest.mark.parametrize("milestone", [1.0, 0.5, 0.3, 0.0])
def test_the_lower_bound_of_a_crop_is_the_curriculums(milestone):
    iterations = 40
    span = milestone * iterations
    formulas = {
        "none": lambda t: 0.08,
        "step": lambda t: 1,
        "linear": lambda t: 0.08 + 0.92 * (1 - t / span),
        "cosine": lambda t: 0.08 + 0.92 * (1 + math.cos(math.pi * t / span)) / 2,
    }
    for curriculum, formula in formulas.items():
        fields = fields_of(iterations=iterations, curriculum=curriculum, milestone=milestone)
        found = [lower_bound(fields, t) for t in range(iterations)]
        assert found == pytest.approx([formula(t) if t < span else 0.08 for t in range(iterations)], abs=1e-12)
        assert all(0.08 - 1e-12 <= low <= 1 for low in found)
    higher = fields_of(iterations=iterations, curriculum="cosine", crop_low=0.4)
    assert lower_bound(higher, 0) == 1 and lower_bound(higher, 20) == pytest.approx(0.7)


def test_a_roll_that_falls_is_refused():
    with pytest.raises(ValidationError, match="smallest roll"):
        fields_of(roll=(3, 1))
    assert fields_of(roll=(-4, -4)).roll == (-4, -4)


# snapshots


class Noted(Snapshots):
    """Keeps what is offered and wanted, as it is."""

    def __init__(self, *shares):
        super().__init__(None, shares, None)
        self.parts = {}

    def offer(self, step, total, make):
        if step in self.steps(total):
            assert step not in self.parts
            self.parts[step] = make()


def watched(problems, fields, snapshots, checkpoint=None, reporter=None, **options):
    task = a_task(checkpoint, reporter, snapshots=snapshots)
    engine = Recovery(task, fields, {"one": Voter(a_network())}, bounds_of(), **options)
    return engine.run(problems, made=lambda parts: [part.clone() for part in parts])


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_a_snapshot_is_of_all_problems_after_as_many_steps_of_their_own(at_once):
    """Whatever stacks they were in, and whatever order those were solved in."""
    problems = [a_problem(k, images=3 - k % 2, seed=k) for k in range(5)]
    fields, snapshots = fields_of(), Noted(0.0, 0.3, 0.95)
    found = watched(problems, fields, snapshots, at_once=at_once)
    assert sorted(snapshots.parts) == [0, 6, 19]
    for step, parts in snapshots.parts.items():
        for problem, images in zip(problems, parts, strict=True):
            wanted = by_hand(problem, fields, {"one": a_network()}, steps=step)
            assert off(images, wanted, problem.start) < 1e-9 if step else torch.equal(images, problem.start)
    plain = watched(problems, fields, None, at_once=at_once)
    assert all(torch.equal(one, two) for one, two in zip(plain, found, strict=True))


@pytest.mark.parametrize("last", [1, 3, 5, 6, 8, 14, 17])
def test_a_stopped_run_has_the_same_snapshots(last, tmp_path):
    """Three stacks of 6 steps: stopped before, at and after a mark, in every stack; parts of those done are kept."""
    problems, fields = [a_problem(k, seed=k) for k in range(5)], fields_of(iterations=6)
    whole, first, second = Noted(0.0, 0.5), Noted(0.0, 0.5), Noted(0.0, 0.5)
    watched(problems, fields, whole, at_once=2)
    path = tmp_path / "state.safetensors"
    with pytest.raises(Stopped):
        watched(problems, fields, first, Checkpoint(path, interval=0), StopAt(last), at_once=2)
    watched(problems, fields, second, Checkpoint(path), at_once=2)
    found = first.parts | second.parts
    assert found.keys() == whole.parts.keys() == {0, 3}
    assert all(torch.equal(a, b) for step in found for a, b in zip(found[step], whole.parts[step], strict=True))


# stopped, and gone on with


@pytest.mark.parametrize("compensate", [False, True])
@pytest.mark.parametrize("last", [3, 6, 8, 18])
def test_a_stopped_run_goes_on_to_the_same_bits(compensate, last, tmp_path):
    """Three stacks of 6 steps; stopped inside, at the end of one, inside the second, and when all is done."""
    problems = [a_problem(k, seed=k, dtype=torch.float32) for k in range(5)]
    fields = fields_of(iterations=6)
    options = {"compensate": compensate, "bounded": not compensate, "at_once": 2, "dtype": torch.float32}
    whole = recover(problems, fields, **options)
    path = tmp_path / "state.safetensors"
    with pytest.raises(Stopped):
        recover(problems, fields, task=a_task(Checkpoint(path, interval=0), StopAt(last)), **options)
    for at_once in (2, 1):  # another machine may have room for other stacks
        steps = StopAt()
        again = recover(problems, fields, task=a_task(Checkpoint(path), steps), **{**options, "at_once": at_once})
        assert all(torch.equal(one, two) for one, two in zip(whole, again, strict=True))
        assert steps.seen == [*range(last + 1, 19)]


def test_a_run_over_a_window_of_draws_goes_on_to_the_same_bits(tmp_path):
    problems, fields = [a_problem(0, dtype=torch.float32)], fields_of(iterations=105)
    whole = recover(problems, fields, dtype=torch.float32)
    for last in (99, 100, 101):
        path = tmp_path / f"{last}.safetensors"
        with pytest.raises(Stopped):
            recover(problems, fields, task=a_task(Checkpoint(path, interval=0), StopAt(last)), dtype=torch.float32)
        again = recover(problems, fields, task=a_task(Checkpoint(path)), dtype=torch.float32)
        assert torch.equal(whole[0], again[0])


def test_a_run_that_diverges_says_so_in_a_line_and_its_checkpoint_is_gone_on_from(tmp_path):
    """Weights that turn infinite after 7 steps: nothing that is not finite is kept, and the run goes on before it."""
    path, fields, problems = tmp_path / "state.safetensors", fields_of(iterations=40), [a_problem(0)]

    class Breaks(Reporter):
        def advance(self, label, done, total):
            if done == 7:
                voter.norms[1].scale.fill_(math.inf)

    voter = Voter(a_network())
    task = a_task(Checkpoint(path, interval=0), Breaks())
    with pytest.raises(JobFailed, match=r"diverged: .* recover step 7") as error:
        Recovery(task, fields, {"one": voter}, bounds_of()).run(problems)
    assert "\n" not in str(error.value) and "recover_lr" in str(error.value)
    state = Checkpoint(path).load()
    assert state["step"] == 7 and torch.isfinite(state["stack"]).all()
    again = recover(problems, fields, task=a_task(Checkpoint(path)))
    assert torch.equal(again[0], recover(problems, fields)[0])


def test_a_run_that_diverges_without_a_checkpoint_fails_too():
    with pytest.raises(JobFailed, match="diverged"):
        problems = [a_problem(0, dtype=torch.float32)]
        recover(problems, fields_of(recover_lr=1e38), compensate=True, bounded=False, dtype=torch.float32)


def test_equal_seeds_give_equal_bits_whatever_the_global_generator_holds():
    problems, fields = [a_problem(0, dtype=torch.float32)], fields_of()
    torch.manual_seed(1)
    one = recover(problems, fields, dtype=torch.float32)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert torch.equal(one[0], recover(problems, fields, dtype=torch.float32)[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_how_voters_are_computed_changes_a_recipe_only_where_it_is_not_the_reference():
    plain, fast = fields_of(), fields_of(recover_precision="bf16", recover_compiled=True)
    assert not [key for key in plain.model_dump() if key.startswith(("recover_p", "recover_c"))]
    assert RecoverFields.model_validate_json(plain.model_dump_json()) == plain
    assert RecoverFields.model_validate_json(fast.model_dump_json()) == fast
    assert fast.execution() == Execution("bf16", compiled=True)
    assert plain.execution() == Execution()


def test_compiling_where_nothing_compiles_is_a_line_before_a_teacher_is_trained(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    task = a_task()
    with pytest.raises(UsageError, match="compile on: there is no"):
        fields_of(recover_compiled=True).require_voters(task, [task.network])
