"""The recover engine against a plain loop, one block at a time; stacked, stopped, gone on with; and what a step sees."""

import math
from dataclasses import replace

import pytest
import small_tasks
import torch
import torch.nn.functional as F
from ddbench.methods.engines.decoupled.measured_norm import Voter
from ddbench.methods.engines.decoupled.recover import ImageBlock, RecoverFields, Recovery, lower_bound
from ddbench.methods.engines.decoupled.windows import Draws, draw_windows, view
from pydantic import ValidationError
from small_tasks import crop_flip_roll, logits_and_distance, normal, small_resnet, with_statistics
from torchvision.transforms import RandomResizedCrop
from watching import StopAt, Stopped

from ddbench import networks
from ddbench.augment.crops import draw_crops
from ddbench.distillation.snapshots import Snapshots
from ddbench.errors import JobFailed, UsageError
from ddbench.progress import Reporter
from ddbench.randomness import rng
from ddbench.training.checkpoints import Checkpoint
from ddbench.training.precision import Execution

SEED, F64 = 5, torch.float64
BOUNDS = (torch.tensor([-2.0, -1.0, -1.5])[:, None, None], torch.tensor([1.0, 2.0, 1.5])[:, None, None])


def a_task(checkpoint=None, reporter=None, **more):
    return small_tasks.toy_task(checkpoint=checkpoint, reporter=reporter, **more)


def fields_of(**changes):
    given = {"iterations": 20, "recover_lr": 0.25, "r_bn": 0.1, "roll": (0, 2), **changes}
    return RecoverFields.model_validate(given)


def a_network(kind="convnet", seed=0, dtype=F64):
    """A teacher; equal arguments give equal ones."""
    if kind == "convnet":
        network = networks.create("convnet-d2-w4-bn", channels=3, side=8, classes=6, seed=seed)
    else:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = small_resnet(6)
    return with_statistics(network, seed).to(dtype)


def bounds_of(dtype=F64):
    return BOUNDS[0].to(dtype), BOUNDS[1].to(dtype)


def a_problem(*key, images=3, seed=0, votes=None, dtype=F64):
    start = normal(images, 3, 8, 8, seed=seed + 10, dtype=dtype)
    return ImageBlock(key, (torch.arange(images) + seed) % 6, start, votes or {"one": 1.0})


def recover(problems, fields, *, voters=None, task=None, dtype=F64, bounded=True, **options):
    voters = {"one": a_network(dtype=dtype)} if voters is None else voters
    bounds = bounds_of(dtype) if bounded else None
    engine = Recovery(task or a_task(), fields, {name: Voter(net) for name, net in voters.items()}, bounds, **options)
    return engine.run(problems)


def by_hand(problem, fields, teachers, *, bounded=True, compensate=False, flip=True, steps=None):
    """One problem alone: torch's Adam, cosine by step t / T, clamp, un-squared norms, last iterate, or that of a step."""
    draws_of = Recovery(a_task(flip=flip), fields, {}, None)
    x = (torch.zeros_like(problem.start[:1]) if compensate else problem.start.clone()).requires_grad_()
    optimizer = torch.optim.Adam([x], lr=1.0, betas=(0.5, 0.9), eps=1e-8)
    for t in range(fields.iterations if steps is None else steps):
        optimizer.param_groups[0]["lr"] = fields.recover_lr * 0.5 * (1 + math.cos(math.pi * t / fields.iterations))
        draws, at = draws_of.draws(problem, t // 100), t % 100
        seen = problem.start + x if compensate else x
        seen = crop_flip_roll(seen, draws.at(at))
        loss = 0
        for name, weight in problem.votes.items():
            logits, distance = logits_and_distance(teachers[name], seen)
            loss = loss + weight * (F.cross_entropy(logits, problem.labels) + fields.r_bn * distance)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if bounded:
            for channel in range(3):
                x.data[:, channel].clamp_(float(BOUNDS[0][channel]), float(BOUNDS[1][channel]))
    return x.detach()


def off(found, wanted, start):
    """How far two results are apart, in lengths of the way that was gone."""
    way = (wanted - start).norm()
    assert way > 0.1 * math.sqrt(wanted.numel())
    return float((found - wanted).norm() / way)


# the objective and the optimizer


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
    task, bounds = a_task(reporter=(steps := StopAt(7))), None if compensate else bounds_of()
    voters = {"one": Voter(a_network())}
    engine = Recovery(task, fields_of(iterations=5), voters, bounds, compensate=compensate, at_once=2)
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
    return engine.run(problems, make_set=lambda parts: [part.clone() for part in parts])


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


# what a step sees

SIDE = 12


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(count, seed=0):
    return normal(count, 3, SIDE, SIDE, seed=seed)


@pytest.mark.parametrize("lows", [[0.08] * 40, [1.0] * 40, None])
@pytest.mark.parametrize("roll", [(0, 4), (-4, 4), (-30, -20), (0, 0)])
def test_a_view_is_crop_flip_and_roll_for_each_problem(lows, roll):
    """Three problems of two images: each has its own draw, which its images share."""
    drawn = [draw_windows(40, SIDE, generator(seed), lows=lows, flip=True, roll=roll) for seed in range(3)]
    for step in range(40):
        own = [draws.at(step) for draws in drawn]
        mine, theirs = (pictures(6, step).requires_grad_() for _ in range(2))
        seen, weights = view(mine, own), pictures(6, 1000 + step)
        wanted = torch.cat([crop_flip_roll(part, draws) for part, draws in zip(theirs.chunk(3), own, strict=True)])
        torch.testing.assert_close(seen, wanted, rtol=1e-12, atol=1e-12)
        (seen * weights).sum().backward()
        (wanted * weights).sum().backward()
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-12, atol=1e-12)


def test_the_order_is_crop_flip_roll():
    """A window of the upper left quarter, mirrored, then moved one down and two to the right, around the border."""
    picture = torch.arange(16.0).view(1, 1, 4, 4)
    draws = Draws(torch.tensor([[0, 0, 4, 4]]), torch.tensor([True]), torch.tensor([[1, 2]]))
    wanted = [[13, 12, 15, 14], [1, 0, 3, 2], [5, 4, 7, 6], [9, 8, 11, 10]]
    torch.testing.assert_close(view(picture, [draws])[0, 0], torch.tensor(wanted).float(), rtol=0, atol=1e-5)
    corner = replace(draws, boxes=torch.tensor([[0, 0, 1, 2]]), rolls=torch.tensor([[0, 0]]))
    row = torch.tensor([1.0, 0.75, 0.25, 0.0])  # 0 and 1, enlarged, mirrored; nothing of what lies beside
    torch.testing.assert_close(view(picture, [corner])[0, 0], row.expand(4, 4), rtol=0, atol=1e-6)


# draws


@pytest.mark.parametrize(("low", "high"), [(0, 4), (-4, 4), (2, 2), (-7, -5)])
def test_rolls_are_uniform_and_both_ends_are_in(low, high):
    rolls = draw_windows(3000, SIDE, generator(), lows=None, flip=True, roll=(low, high)).rolls
    assert rolls.shape == (3000, 2) and rolls.dtype == torch.int64
    for direction in rolls.T:
        counts = torch.bincount(direction - low, minlength=high - low + 1)
        assert len(counts) == high - low + 1 and counts.min() > 0.8 * 3000 / len(counts)
    assert low == high or (rolls[:, 0] != rolls[:, 1]).any()


def test_without_a_crop_there_is_no_flip_either():
    drawn = draw_windows(100, SIDE, generator(), lows=None, flip=True, roll=(0, 4))
    assert drawn.boxes is None and not drawn.flips.any() and drawn.at(3).boxes is None


def test_flips_are_half_and_none_where_a_flip_changes_the_class():
    kept, refused = (
        draw_windows(2000, SIDE, generator(), lows=[0.08] * 2000, flip=flip, roll=(0, 4)) for flip in (True, False)
    )
    assert 900 < kept.flips.sum() < 1100 and not refused.flips.any()
    assert torch.equal(kept.boxes, refused.boxes) and torch.equal(kept.rolls, refused.rolls)


@pytest.mark.parametrize("low", [0.08, 0.6, 1.0])
def test_crops_are_distributed_as_torchvisions(low):
    count, side = 3000, 224
    ours = draw_windows(count, side, generator(), lows=[low] * count, flip=True, roll=(0, 32)).boxes.double()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        blank = torch.zeros(1, side, side)
        theirs = [RandomResizedCrop.get_params(blank, [low, 1.0], [3 / 4, 4 / 3]) for _ in range(count)]
    for of in (
        lambda top, left, height, width: height * width / side**2,
        lambda top, left, height, width: (width / height).log() / math.log(4 / 3),
        lambda top, left, height, width: top / side,
        lambda top, left, height, width: left / side,
    ):
        one, two = (
            of(*boxes.T).quantile(torch.linspace(0, 1, 11, dtype=torch.float64))
            for boxes in (ours, torch.tensor(theirs).double())
        )
        torch.testing.assert_close(one, two, rtol=0, atol=0.05)


def test_the_lower_bound_of_the_area_is_that_of_the_step():
    count, side = 2000, 224
    lows = torch.linspace(0.04, 0.8, count, dtype=torch.float64)
    boxes = draw_windows(count, side, generator(3), lows=lows.tolist(), flip=True, roll=(0, 32)).boxes
    assert torch.equal(boxes, draw_crops(count, side, generator(3), scale=(lows[:, None], 1.0)))
    above = boxes[:, 2] * boxes[:, 3] / side**2 - lows
    assert above.min() > -0.01 and all(part.min() < 0.05 for part in above.split(500))


# the engine's draws


def a_recovery(at_once=None, seed=5, **fields):
    task = small_tasks.a_task(seed=seed)
    given = {"iterations": 250, "recover_lr": 0.1, "r_bn": 0.01, **fields}
    return Recovery(task, RecoverFields.model_validate(given), {}, None, at_once=at_once)


def keyed(*key):
    return ImageBlock(key, torch.arange(3), torch.zeros(3, 1, 8, 8), {"one": 1.0})


def same(one, other):
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("boxes", "flips", "rolls"))


@pytest.mark.parametrize("curriculum", ["none", "cosine"])
def test_draws_follow_from_seed_problem_and_step_alone(curriculum):
    recovery = a_recovery(curriculum=curriculum)
    for window, count in ((0, 100), (1, 100), (2, 50)):
        found = recovery.draws(keyed(0, 1), window)
        steps = range(100 * window, 100 * window + count)
        lows = [0.08 + (0.92 * (1 + math.cos(math.pi * t / 250)) / 2 if curriculum == "cosine" else 0) for t in steps]
        own = rng(5, "synthesis", "recover", 0, 1, window)
        assert len(found.rolls) == count
        assert same(found, draw_windows(count, 8, own, lows=lows, flip=False, roll=(0, 4)))
        assert same(found, a_recovery(at_once=2, curriculum=curriculum).draws(keyed(0, 1), window))
        for other in (recovery.draws(keyed(1, 0), window), recovery.draws(keyed(0, 2), window)):
            assert not same(found, other)
        assert not same(found, a_recovery(seed=6, curriculum=curriculum).draws(keyed(0, 1), window))
    assert recovery.draws(keyed(0), 0).flips.sum() == 0  # digits
    assert a_recovery(crop=False).draws(keyed(0), 0).boxes is None
