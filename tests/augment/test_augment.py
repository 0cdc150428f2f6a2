"""Augmentations against per-sample reference code, and what their random draws must satisfy."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from torch.autograd import gradcheck
from torchvision.transforms.v2 import functional as TF

from ddbench import plugins
from ddbench.augment import (
    DSA,
    OPS,
    Drawn,
    build_augmentation,
    build_mixing,
    cutmix,
    draw_crops,
    flip,
    mixup,
    pad_crop,
    random_resized_crop,
    registry,
    resized_crop,
    shift,
    shuffle_patches,
)
from ddbench.augment.crops import crop_grid
from ddbench.augment.patches import move_patches
from ddbench.errors import UsageError
from ddbench.randomness import rng


def pictures(count: int = 5, side: int = 12, channels: int = 3) -> torch.Tensor:
    return torch.randn(count, channels, side, side, generator=rng(0, "pictures"), dtype=torch.float64)


def values(drawn: Drawn, sample: int) -> dict[str, float]:
    return {name: tensor[sample % len(tensor)].item() for name, tensor in drawn.parameters.items()}


def color_of_one(image, brightness, saturation, contrast):
    out = image + brightness
    grey = (out[0] + out[1] + out[2]) / 3
    out = np.stack([(plane - grey) * saturation + grey for plane in out])
    return (out - out.mean()) * contrast + out.mean()


def crop_of_one(image, down, right):
    out = np.zeros_like(image)
    side = image.shape[-1]
    for y in range(side):
        for x in range(side):
            if 0 <= y + down < side and 0 <= x + right < side:
                out[:, y, x] = image[:, int(y + down), int(x + right)]
    return out


def cutout_of_one(image, row, column):
    out, side = image.copy(), image.shape[-1]
    size = math.floor(0.5 * side + 0.5)
    for dy in range(size):
        for dx in range(size):
            y = min(max(int(row) - size // 2 + dy, 0), side - 1)
            x = min(max(int(column) - size // 2 + dx, 0), side - 1)
            out[:, y, x] = 0
    return out


def warp_of_one(image, matrix, align_corners):
    """Bilinear sampling at `matrix` times the output pixel's place, with 0 outside."""
    side = image.shape[-1]
    places = np.linspace(-1, 1, side) if align_corners else (2 * np.arange(side) + 1) / side - 1
    out = np.zeros_like(image)
    for i, v in enumerate(places):
        for j, u in enumerate(places):
            x, y = matrix @ np.array([u, v])
            x, y = ((t + 1) / 2 * (side - 1) if align_corners else ((t + 1) * side - 1) / 2 for t in (x, y))
            for yy in (math.floor(y), math.floor(y) + 1):
                for xx in (math.floor(x), math.floor(x) + 1):
                    if 0 <= yy < side and 0 <= xx < side:
                        out[:, i, j] += image[:, yy, xx] * (1 - abs(y - yy)) * (1 - abs(x - xx))
    return out


def reference(op, image, parameters, align_corners):
    if op == "color":
        return color_of_one(image, **parameters)
    if op == "crop":
        return crop_of_one(image, **parameters)
    if op == "cutout":
        return cutout_of_one(image, **parameters)
    if op == "flip":
        return image[:, :, ::-1] if parameters["flip"] else image
    if op == "scale":
        return warp_of_one(image, np.diag([parameters["x"], parameters["y"]]), align_corners)
    turn = math.radians(parameters["angle"])
    matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    return warp_of_one(image, matrix, align_corners)


@pytest.mark.parametrize(("siamese", "align"), [(False, True), (True, True), (False, False)])  # False: the DC family's
@pytest.mark.parametrize("side", [8, 11])
@pytest.mark.parametrize("op", OPS)
def test_dsa_equals_the_definition_sample_by_sample(op, side, siamese, align):
    dsa, images = DSA(siamese=siamese, align_corners=align), pictures(side=side)
    drawn = dsa.draw_op(op, len(images), side, rng(1, op))
    assert len(drawn) == (1 if siamese else len(images))
    result = dsa.apply(images, drawn)
    for sample, image in enumerate(images.numpy()):
        expected = reference(op, image, values(drawn, sample), align)
        np.testing.assert_allclose(result[sample].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(
    "augment",
    [
        *(partial(DSA().apply, drawn=DSA().draw_op(op, 2, 6, rng(3))) for op in OPS),
        partial(resized_crop, boxes=torch.tensor([[1, 0, 3, 4], [2, 2, 4, 2]])),
        lambda images: shuffle_patches(images, rng(6), factor=2),
    ],
)
def test_gradients_flow_to_the_images(augment):
    assert gradcheck(augment, (pictures(2, 6).requires_grad_(),), fast_mode=True)


def test_dsa_draws_the_six_operations_equally_often():
    counts = [DSA().draw(1, 8, rng(0, "op", i)).op for i in range(1200)]
    assert stats.chisquare([counts.count(op) for op in OPS]).pvalue > 1e-4
    assert {DSA(ops=("crop", "color")).draw(1, 8, rng(0, i)).op for i in range(40)} == {"crop", "color"}


@pytest.mark.parametrize(
    ("op", "name", "low", "high"),
    [
        ("color", "brightness", -0.5, 0.5),
        ("color", "saturation", 0.0, 2.0),
        ("color", "contrast", 0.5, 1.5),
        ("scale", "x", 1 / 1.2, 1.2),
        ("scale", "y", 1 / 1.2, 1.2),
        ("rotate", "angle", -15.0, 15.0),
    ],
)
def test_dsa_continuous_parameters_are_uniform_on_their_range(op, name, low, high):
    drawn = DSA().draw_op(op, 3000, 32, rng(0, op, name)).parameters[name]
    assert stats.kstest(drawn.numpy(), "uniform", (low, high - low)).pvalue > 1e-4


@pytest.mark.parametrize(("side", "reach", "rounded"), [(8, 1, 1), (20, 3, 2), (28, 4, 4), (32, 4, 4), (64, 8, 8)])
def test_dsa_crop_takes_every_whole_shift_within_reach(side, reach, rounded):
    for rounding, expected in (("floor", reach), ("round", rounded)):
        drawn = DSA(crop_rounding=rounding).draw_op("crop", 2000, side, rng(0)).parameters
        for shifts in drawn.values():
            assert set(shifts.tolist()) == set(range(-expected, expected + 1))


@pytest.mark.parametrize(("side", "last"), [(8, 8), (32, 32), (9, 8)])
def test_dsa_cutout_centres_reach_the_border(side, last):
    # k = 4 and 16 are even: centres 0 to H; at 9 px k = 5 is odd: 0 to H - 1.
    drawn = DSA().draw_op("cutout", 3000, side, rng(0)).parameters
    for centres in drawn.values():
        assert set(centres.tolist()) == set(range(last + 1))


def test_dsa_parameters_are_per_sample_unless_siamese():
    same = pictures(1, 8).expand(6, -1, -1, -1)
    for op in ("color", "scale", "rotate"):
        each = DSA().apply(same, DSA().draw_op(op, 6, 8, rng(4)))
        assert len({tuple(image.flatten().tolist()) for image in each}) == 6
        siamese = DSA(siamese=True)
        one = siamese.apply(same, siamese.draw_op(op, 6, 8, rng(4)))
        assert torch.equal(one, one[:1].expand_as(one))


def test_dsa_siamese_draw_serves_batches_of_any_size_and_a_plain_draw_only_its_own():
    dsa = DSA(siamese=True)
    images = pictures(6, 8)
    for op in OPS:
        drawn = dsa.draw_op(op, 1, 8, rng(5, op))
        torch.testing.assert_close(dsa.apply(images, drawn)[:2], dsa.apply(images[:2], drawn))
    with pytest.raises(ValueError, match="drawn for 3"):
        DSA().apply(images, DSA().draw(3, 8, rng(0)))


def test_dsa_same_key_same_result_and_inputs_untouched():
    images = pictures(4, 8).float()
    before = images.clone()
    for step in range(12):
        assert torch.equal(DSA()(images, rng(0, step)), DSA()(images, rng(0, step)))
    assert torch.equal(images, before)
    assert not torch.equal(DSA()(images, rng(0, "a")), DSA()(images, rng(1, "b")))
    assert DSA()(images[:0], rng(0)).shape == (0, 3, 8, 8)


def test_dsa_takes_other_dtypes_and_one_channel():
    for dtype in (torch.float32, torch.bfloat16):
        images = pictures(3, 8, channels=1).to(dtype)
        for op in OPS:
            assert DSA().apply(images, DSA().draw_op(op, 3, 8, rng(0))).dtype == dtype


@pytest.mark.parametrize(
    "bad",
    [
        {"ops": ()},
        {"ops": ("crop", "crop")},
        {"ops": ("hue",)},
        {"ops": "crop"},
        {"crop_rounding": "up"},
        {"siamese": 1},
    ],
)
def test_dsa_refuses_bad_options_in_one_line(bad):
    with pytest.raises(UsageError) as error:
        DSA(**bad)
    assert "\n" not in str(error.value)


def test_shift_beyond_the_image_leaves_nothing():
    images = pictures(2, 4)
    for count in (1, 2):
        gone = torch.full((count,), 9)
        assert not shift(images, gone, torch.zeros(count, dtype=torch.int64)).any()


def test_pad_crop_is_a_random_crop_of_the_padded_image():
    images = pictures(64, 8)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    cropped = pad_crop(images, rng(6), pad=2)
    seen = set()
    for image, whole in zip(cropped, padded, strict=True):
        windows = [(y, x) for y in range(5) for x in range(5) if torch.equal(whole[:, y : y + 8, x : x + 8], image)]
        assert len(windows) == 1
        seen.add(windows[0])
    assert len(seen) > 12
    assert torch.equal(pad_crop(images, rng(6), pad=0), images)


def test_flip_mirrors_about_half_of_the_samples():
    images = pictures(400, 4)
    flipped = flip(images, rng(7))
    mirrored = [torch.equal(new, old.flip(-1)) for new, old in zip(flipped, images, strict=True)]
    kept = [torch.equal(new, old) for new, old in zip(flipped, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True)) and 150 < sum(mirrored) < 250
    for p, wanted in ((1.0, images.flip(-1)), (0.0, images)):
        assert torch.equal(flip(images, rng(7), p=p), wanted)


@pytest.mark.parametrize("side", [8, 32])
def test_resized_crop_equals_cropping_then_resizing(side):
    images = pictures(40, side).float()
    boxes = draw_crops(40, side, rng(8))
    result = resized_crop(images, boxes)
    for image, box, got in zip(images, boxes.tolist(), result, strict=True):
        expected = TF.resized_crop(image, *box, size=[side, side], antialias=False)
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-5)
    shared = resized_crop(images, boxes[:1])
    torch.testing.assert_close(shared[7], resized_crop(images[7:8], boxes[:1])[0])


def reference_crop(side, scale, ratio, generator):
    """torchvision's window rule in plain Python."""
    for _ in range(10):
        area = side * side * generator.uniform(*scale)
        shape = math.exp(generator.uniform(math.log(ratio[0]), math.log(ratio[1])))
        width, height = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < width <= side and 0 < height <= side:
            return generator.integers(side - height + 1), generator.integers(side - width + 1), height, width
    return 0, 0, side, side


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.9, 1.0)])
def test_drawn_windows_follow_torchvisions_rule(scale):
    ours = draw_crops(3000, 32, rng(9), scale=scale).double().numpy()
    numbers = np.random.default_rng(0)
    theirs = np.array([reference_crop(32, scale, (3 / 4, 4 / 3), numbers) for _ in range(3000)])
    assert (ours >= 0).all() and (ours[:, :2] + ours[:, 2:] <= 32).all()
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-4


def test_windows_that_never_fit_fall_back_to_the_centre():
    for ratio, box in (((2.0, 4.0), [4, 0, 8, 16]), ((0.25, 0.5), [0, 4, 16, 8])):
        assert draw_crops(5, 16, rng(0), scale=(1.0, 1.0), ratio=ratio).tolist() == [box] * 5


def test_whole_image_windows_change_nothing():
    images = pictures(3, 8)
    torch.testing.assert_close(random_resized_crop(images, rng(0), scale=(1.0, 1.0), ratio=(1.0, 1.0)), images)


def test_windows_of_steps_can_have_ranges_of_their_own():
    """A low end for each window, as a curriculum has; equal ends give what one number gives."""
    same = draw_crops(6, 32, rng(1), scale=(torch.full((6, 1), 0.3, dtype=torch.float64), 1.0))
    assert torch.equal(same, draw_crops(6, 32, rng(1), scale=(0.3, 1.0)))
    lows = torch.linspace(0.08, 1, 500, dtype=torch.float64)[:, None]
    boxes = draw_crops(500, 32, rng(2), scale=(lows, 1.0))
    areas = boxes[:, 2] * boxes[:, 3] / 32**2
    assert bool((areas >= lows[:, 0] - 0.04).all()) and float(areas[:50].min()) < 0.3


def test_the_grid_of_a_crop_is_what_the_crop_samples():
    images, boxes = pictures(4, 10), draw_crops(4, 10, rng(3))
    grid = crop_grid(boxes, 10, 10, images.dtype)
    assert grid.shape == (4, 10, 10, 2)
    sampled = torch.nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    assert torch.equal(sampled, resized_crop(images, boxes))
    torch.testing.assert_close(crop_grid(boxes[:1], 10, 10, images.dtype), grid[:1])


def shuffled_by_hand(image, order, factor):
    side = image.shape[-1] // factor
    out = torch.empty_like(image)
    for place, tile in enumerate(order):
        (y, x), (v, u) = divmod(place, factor), divmod(int(tile), factor)
        out[:, y * side : (y + 1) * side, x * side : (x + 1) * side] = image[
            :, v * side : (v + 1) * side, u * side : (u + 1) * side
        ]
    return out


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_patches_are_moved_by_definition(factor):
    images = pictures(5, 12)
    order = torch.rand(5, factor**2, generator=rng(4)).argsort(1)
    wanted = torch.stack([shuffled_by_hand(image, row, factor) for image, row in zip(images, order, strict=True)])
    assert torch.equal(move_patches(images, order, factor), wanted)
    assert torch.equal(move_patches(wanted, order.argsort(1), factor), images)


def test_each_image_has_an_order_of_its_own_and_all_are_as_likely():
    numbered = torch.arange(4.0).view(1, 1, 2, 2).expand(6000, 1, 2, 2)
    found = shuffle_patches(numbered, rng(5), factor=2).flatten(1).long()
    assert torch.equal(found.sort(1).values, torch.arange(4).expand(6000, 4))
    codes = found @ torch.tensor([64, 16, 4, 1])
    counts = codes.unique(return_counts=True)[1].numpy()
    assert len(counts) == 24 and stats.chisquare(counts).pvalue > 1e-4
    assert torch.equal(found, shuffle_patches(numbered, rng(5), factor=2).flatten(1).long())


def test_patches_must_be_whole():
    with pytest.raises(UsageError, match="8 x 8 px are not 3 x 3 whole tiles"):
        shuffle_patches(pictures(2, 8), rng(0), factor=3)


def test_cutmix_pastes_one_box_of_the_permuted_images():
    images = pictures(6, 16)
    for step in range(30):
        mixed, order, lam = cutmix(images, rng(10, step))
        assert sorted(order.tolist()) == list(range(6))
        box = (mixed != images).any(0).any(0) & (mixed == images[order]).all(0).all(0)
        if order.tolist() != list(range(6)):
            rows, columns = box.any(1).nonzero(), box.any(0).nonzero()
            assert box.sum() == len(rows) * len(columns)
            assert lam == pytest.approx(1 - box.double().mean().item())
        assert torch.equal(mixed, torch.where(box, images[order], images))


def test_cutmix_box_area_follows_lambda():
    generator = np.random.default_rng(1)
    ours = [cutmix(torch.zeros(1, 1, 32, 32), rng(11, i))[2] for i in range(1500)]

    def one():
        half = int(32 * math.sqrt(generator.uniform())) // 2
        area = 1
        for centre in generator.integers(32, size=2):
            area *= min(centre + half, 32) - max(centre - half, 0)
        return 1 - area / 1024

    assert stats.ks_2samp(ours, [one() for _ in range(1500)]).pvalue > 1e-4


def test_mixup_blends_with_a_beta_weight():
    images = pictures(6, 4)
    mixed, order, lam = mixup(images, rng(12))
    torch.testing.assert_close(mixed, lam * images + (1 - lam) * images[order])
    weights = [mixup(images[:1], rng(13, i), alpha=0.8)[2] for i in range(1500)]
    assert stats.kstest(weights, "beta", (0.8, 0.8)).pvalue > 1e-4


def test_mixing_is_repeatable_and_leaves_its_input():
    images = pictures(5, 8)
    before = images.clone()
    for mixing in (build_mixing({"name": "cutmix"}), build_mixing({"name": "mixup", "alpha": 1})):
        first, second = mixing(images, rng(0, 1)), mixing(images, rng(0, 1))
        assert torch.equal(first[0], second[0]) and first[2] == second[2]
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("spec", "same"),
    [
        ({"name": "dsa", "ops": ["crop"], "siamese": True}, lambda x, g: DSA(ops=("crop",), siamese=True)(x, g)),
        ({"name": "pad-crop", "pad": 2}, lambda x, g: pad_crop(x, g, pad=2)),
        ({"name": "pad-crop", "fraction": 0.25}, lambda x, g: pad_crop(x, g, pad=2)),
        ({"name": "pad-crop", "fraction": 0.2}, lambda x, g: pad_crop(x, g, pad=1)),
        ({"name": "flip"}, flip),
        ({"name": "random-resized-crop", "scale": [0.5, 1]}, lambda x, g: random_resized_crop(x, g, scale=(0.5, 1))),
        ({"name": "shuffle-patches", "factor": 2}, lambda x, g: shuffle_patches(x, g, factor=2)),
    ],
)
def test_registered_augmentations_are_the_functions(spec, same):
    images = pictures(4, 8)
    assert spec["name"] in registry.AUGMENTATIONS.names()
    assert torch.equal(build_augmentation(spec)(images, rng(0)), same(images, rng(0)))


@pytest.mark.parametrize(
    ("build", "spec", "words"),
    [
        (build_augmentation, {"name": "dsaa"}, "did you mean dsa"),
        (build_augmentation, {"pad": 4}, "unknown augmentation"),
        (build_augmentation, {"name": "pad-crop"}, "either pad"),
        (build_augmentation, {"name": "pad-crop", "pad": 4, "fraction": 0.125}, "either pad"),
        (build_augmentation, {"name": "pad-crop", "pad": 4, "fill": 1}, "its parameters: pad"),
        (build_augmentation, {"name": "pad-crop", "pad": 2.5}, "'pad'"),
        (build_augmentation, {"name": "flip", "p": 2}, "'p'"),
        (build_augmentation, {"name": "random-resized-crop", "scale": [0.5]}, "low <= high"),
        (build_augmentation, {"name": "random-resized-crop", "ratio": [2, 1]}, "low <= high"),
        (build_augmentation, {"name": "dsa", "op": ["crop"]}, "its parameters: ops"),
        (build_augmentation, {"name": "shuffle-patches"}, "'factor'"),
        (build_augmentation, {"name": "shuffle-patches", "factor": 0}, "'factor'"),
        (build_mixing, {"name": "cutmx"}, "did you mean cutmix"),
        (build_mixing, {"name": "cutmix", "beta": 1}, "its parameters: alpha"),
        (build_mixing, {"name": "mixup", "alpha": 0}, "'alpha'"),
        (build_mixing, {}, "unknown mix"),
    ],
)
def test_bad_specs_are_refused_in_one_line(build, spec, words):
    with pytest.raises(UsageError, match=words) as error:
        build(spec)
    assert "\n" not in str(error.value)


def installed(monkeypatch, *names):
    def negate(*, gain: float = 1.0):
        return lambda images, generator: -gain * images

    monkeypatch.setattr(plugins, "names", lambda group: names if group == "ddbench.augmentations" else ())
    monkeypatch.setattr(plugins, "find", lambda group, name: negate)


def test_an_installed_package_can_add_an_augmentation(monkeypatch):
    installed(monkeypatch, "negate")
    images = pictures(2, 4)
    assert torch.equal(build_augmentation({"name": "negate", "gain": 2.0})(images, rng(0)), -2 * images)
    with pytest.raises(UsageError, match="gain"):
        build_augmentation({"name": "negate", "pain": 2.0})


def test_a_name_that_is_built_in_cannot_be_taken(monkeypatch):
    installed(monkeypatch, "flip")
    with pytest.raises(UsageError, match="twice"):
        registry.AUGMENTATIONS.names()
