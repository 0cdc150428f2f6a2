"""What a recover step sees: one gather, against cropping, resizing, flipping and rolling one after another."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from ddbench.methods.engines.decoupled.recover import ImageBlock, RecoverFields, Recovery
from ddbench.methods.engines.decoupled.windows import Draws, draw_windows, view
from torchvision.transforms import RandomResizedCrop

from ddbench.augment.crops import draw_crops
from ddbench.budget import Budget
from ddbench.data.registry import load_dataset
from ddbench.distillation.task import Task
from ddbench.randomness import rng

SIDE = 12


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count, seed=0, dtype=torch.float64):
    return torch.randn(count, 3, SIDE, SIDE, generator=generator(seed), dtype=dtype)


def by_hand(part, draws):
    """The images [B, C, H, W] of one problem: crop, resize, flip, roll."""
    if draws.boxes is not None:
        top, left, height, width = draws.boxes[0].tolist()
        window = part[:, :, top : top + height, left : left + width]
        part = F.interpolate(window, part.shape[-2:], mode="bilinear", align_corners=False)
        part = part.flip(-1) if draws.flips[0] else part
    down, right = draws.rolls[0].tolist()
    return torch.roll(part, (down, right), (2, 3))


@pytest.mark.parametrize("lows", [[0.08] * 40, [1.0] * 40, None])
@pytest.mark.parametrize("roll", [(0, 4), (-4, 4), (-30, -20), (0, 0)])
def test_a_view_is_crop_flip_and_roll_for_each_problem(lows, roll):
    """Three problems of two images: each has its own draw, which its images share."""
    drawn = [draw_windows(40, SIDE, generator(seed), lows=lows, flip=True, roll=roll) for seed in range(3)]
    for step in range(40):
        own = [draws.at(step) for draws in drawn]
        mine, theirs = (images(6, step).requires_grad_() for _ in range(2))
        seen, weights = view(mine, own), images(6, 1000 + step)
        wanted = torch.cat([by_hand(part, draws) for part, draws in zip(theirs.chunk(3), own, strict=True)])
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


def test_float32_is_near_float64():
    drawn = draw_windows(50, SIDE, generator(), lows=[0.08] * 50, flip=True, roll=(-4, 4))
    for step in range(50):
        wanted = by_hand(images(2, step), drawn.at(step)).float()
        torch.testing.assert_close(view(images(2, step).float(), [drawn.at(step)]), wanted, rtol=0, atol=1e-5)


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
    task = Task(load_dataset("digits"), Budget(ipc=1), "convnet-d1-w4-bn", seed, torch.device("cpu"))
    given = {"iterations": 250, "recover_lr": 0.1, "r_bn": 0.01, **fields}
    return Recovery(task, RecoverFields.model_validate(given), {}, None, at_once=at_once)


def a_problem(*key):
    return ImageBlock(key, torch.arange(3), torch.zeros(3, 1, 8, 8), {"one": 1.0})


def same(one, other):
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("boxes", "flips", "rolls"))


@pytest.mark.parametrize("curriculum", ["none", "cosine"])
def test_draws_follow_from_seed_problem_and_step_alone(curriculum):
    recovery = a_recovery(curriculum=curriculum)
    for window, count in ((0, 100), (1, 100), (2, 50)):
        found = recovery.draws(a_problem(0, 1), window)
        steps = range(100 * window, 100 * window + count)
        lows = [0.08 + (0.92 * (1 + math.cos(math.pi * t / 250)) / 2 if curriculum == "cosine" else 0) for t in steps]
        own = rng(5, "synthesis", "recover", 0, 1, window)
        assert len(found.rolls) == count
        assert same(found, draw_windows(count, 8, own, lows=lows, flip=False, roll=(0, 4)))
        assert same(found, a_recovery(at_once=2, curriculum=curriculum).draws(a_problem(0, 1), window))
        for other in (recovery.draws(a_problem(1, 0), window), recovery.draws(a_problem(0, 2), window)):
            assert not same(found, other)
        assert not same(found, a_recovery(seed=6, curriculum=curriculum).draws(a_problem(0, 1), window))
    assert recovery.draws(a_problem(0), 0).flips.sum() == 0  # digits
    assert a_recovery(crop=False).draws(a_problem(0), 0).boxes is None
