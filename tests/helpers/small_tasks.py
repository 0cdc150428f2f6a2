"""Small tasks on digits, jobs of methods, and how they are stopped and refused: what tests of methods share."""

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.resnet import BasicBlock
from watching import Stopped

from ddbench.augment.crops import draw_crops
from ddbench.budget import Budget
from ddbench.data.dataset import Dataset, memory_split
from ddbench.data.registry import load_dataset
from ddbench.distillation.method import find_method
from ddbench.distillation.recipes import resolve
from ddbench.distillation.task import Task
from ddbench.errors import UsageError
from ddbench.evaluation.evaluate import evaluate_seeds
from ddbench.evaluation.protocol import find_protocol
from ddbench.jobs.job import DataName, DistillJob
from ddbench.randomness import rng
from ddbench.training.compute import Compute

CPU = torch.device("cpu")


def digits(count=150, **changes):
    """Digits with the first of its training images alone; its test images are all there."""
    whole = load_dataset("digits")
    return replace(whole, train=memory_split(whole.train.read()[:count], whole.train.labels[:count]), **changes)


def a_task(budget=1, *, network="convnet-d1-w4", seed=5, data=None, **more):
    """A task on 150 digits, of a budget or so many images per class."""
    budget = Budget(budget) if isinstance(budget, int) else budget
    return Task(data or digits(), budget, network, seed, CPU, **more)


def toy_task(*, side=8, flip=True, **more):
    """A task on six black color images of six classes."""
    split = memory_split(torch.zeros(6, 3, side, side, dtype=torch.uint8), torch.arange(6))
    data = Dataset("toy", tuple("abcdef"), 3, side, flip, (0.5,) * 3, (0.25,) * 3, split, split)
    return a_task(network="convnet-d1-w4-bn", data=data, **more)


def hyper_of(name, **fields):
    """Hyper-parameters of a method, read as from JSON."""
    return find_method(name).hyper.model_validate_json(json.dumps(fields))


def distilled(name, task, **fields):
    """The set that a method makes for a task."""
    return find_method(name).distill(task, hyper_of(name, **fields))


def a_job(name, budget=2, *, network=None, seed=0, **fields):
    """The job of a method on digits, by its generic recipe with some fields."""
    how = {"recipe": "generic", "network": network, "overrides": fields}
    recipe = resolve(find_method(name), load_dataset("digits"), Budget(budget), **how)
    return DistillJob.of(DataName("digits"), recipe, seed, Compute())


def shipped_record(synset, data=None, seed=0):
    """The record of one run of the set's own student."""
    return evaluate_seeds(synset, data or digits(), find_protocol("shipped-v1"), seeds=(seed,), setting=Compute())


@contextmanager
def refused(words, error=UsageError):
    """What is done within fails, and says so in one line that has the words."""
    with pytest.raises(error, match=words) as caught:
        yield
    assert "\n" not in str(caught.value)


def stopped_elsewhere(monkeypatch, folder, run):
    """Let a run be stopped in an empty cache, where every checkpoint is due; what follows goes on there."""
    monkeypatch.setenv("DDBENCH_CACHE", str(folder))
    hours = iter(range(0, 10**9, 3600))
    with monkeypatch.context() as clock:
        clock.setattr("time.monotonic", lambda: next(hours))
        with pytest.raises(Stopped):
            run()


def random_places(task, count):
    """The places of the first random images of each class, as the baseline `random` draws them."""
    pools = [(task.dataset.labels == label).nonzero()[:, 0] for label in range(len(task.dataset.class_names))]
    draws = (rng(task.seed, "synthesis", "random", label) for label in range(len(pools)))
    return [pool[torch.randperm(len(pool), generator=draw)[:count]] for pool, draw in zip(pools, draws, strict=True)]


def logits_and_distance(network, images, skip=()):
    """Logits and BN(x) = 10 r_1 + r_2 + ... of one batch, r_l written out, by hooks on the batch norms in their order."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    inputs = {}
    hooks = [norm.register_forward_pre_hook(lambda norm, args: inputs.update({norm: args[0]})) for norm in norms]
    logits = network(images)
    for hook in hooks:
        hook.remove()
    assert len(inputs) == len(norms)
    total = 0
    for place, norm in enumerate(norms):
        if place not in skip:
            total = total + (1 if place else 10) * statistics_distance(norm, inputs[norm])
    return logits, total


def statistics_distance(norm, images):
    """r = || v - var ||_2 + || m - mean ||_2 of a batch norm's input, the variance biased."""
    var = images.transpose(0, 1).flatten(1).var(dim=1, unbiased=False)
    return (norm.running_var - var).norm() + (norm.running_mean - images.mean((0, 2, 3))).norm()


def normal(*shape, seed=0, dtype=torch.float64):
    """N(0, 1) values of a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def small_resnet(classes):
    """A ResNet of two blocks, one with a downsampling branch."""
    branch = nn.Sequential(nn.Conv2d(4, 6, 1, stride=2, bias=False), nn.BatchNorm2d(6))
    blocks = [BasicBlock(4, 6, stride=2, downsample=branch), BasicBlock(6, 6)]
    stem = [nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, classes))


def with_statistics(network, seed=0):
    """The network in float64 and eval mode, its batch norms with statistics as after a training."""
    for number, norm in enumerate(module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.running_mean.copy_(0.2 * torch.randn(norm.num_features, generator=rng(seed, "mean", number)))
        norm.running_var.copy_(0.5 + torch.rand(norm.num_features, generator=rng(seed, "var", number)))
    return network.double().eval()


def crops_by_hand(task, label, *, pool, crops, patch_low=0.08):
    """For each image [1, C, H, W] of a class that is looked at: it, and its crops' (box, window, window enlarged)."""
    side, places = task.dataset.side, (task.dataset.labels == label).nonzero()[:, 0]
    order = torch.randperm(len(places), generator=rng(task.seed, "synthesis", "patch-pool", label))[:pool]
    generator = rng(task.seed, "synthesis", "patch-crops", label)
    boxes = draw_crops(len(order) * crops, side, generator, scale=(patch_low, 1.0), ratio=(1.0, 1.0)).tolist()
    for number, place in enumerate(places[order]):
        image, found = task.read(task.space("normalised"), place[None]), []
        for top, left, height, width in boxes[number * crops : (number + 1) * crops]:
            assert height == width
            window = image[:, :, top : top + height, left : left + width]
            large = F.interpolate(window, (side, side), mode="bilinear", align_corners=False)
            found.append(((top, left, height, width), window, large))
        yield image, found


def crop_flip_roll(images, draws):
    """Images [b, C, H, W] as a recover step sees them: cropped, resized, flipped and rolled one after another."""
    if draws.boxes is not None:
        top, left, height, width = draws.boxes[0].tolist()
        window = images[:, :, top : top + height, left : left + width]
        images = F.interpolate(window, images.shape[-2:], mode="bilinear", align_corners=False)
        images = images.flip(-1) if draws.flips[0] else images
    return torch.roll(images, draws.rolls[0].tolist(), (2, 3))


def colored_folder(folder, side, count):
    """A data set of noisy colored images of a dark and a light class, read from a folder."""
    from PIL import Image

    for split, images in (("train", count), ("test", 4)):
        for label, name in enumerate(("dark_wall", "light_wall")):
            (folder / split / name).mkdir(parents=True)
            for at in range(images):
                pixels = torch.rand(side, side, 3, generator=rng(0, split, label, at)) * 128 + 100 * label
                Image.fromarray(pixels.to(torch.uint8).numpy()).save(folder / split / name / f"{at}.png")
    return load_dataset(f"folder:{folder}")
