"""Learning-rate schedules and optimizers of a student, by name.

A schedule is called with (step, steps, steps_per_epoch), step counted from 0, and gives the factor on the learning
rate of that step.
"""

import math
from collections.abc import Callable, Iterable
from typing import Annotated

import torch
from pydantic import Field

from ddbench.plugins import Components

Schedule = Callable[[int, int, float], float]
Rate = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Betas = tuple[Fraction, Fraction] | list[Fraction]


def constant() -> Schedule:
    """Learning rate as given, throughout."""
    return lambda step, steps, steps_per_epoch: 1.0


def step_at(at: Fraction = 0.5, factor: Rate = 0.1) -> Schedule:
    """Times `factor` from the fraction `at` of the steps on; the optimizer keeps its momentum."""
    return lambda step, steps, steps_per_epoch: factor if step >= at * steps else 1.0


def step_every(epochs: Annotated[int, Field(ge=1)], factor: Rate) -> Schedule:
    """Times `factor` after every so many epochs, again and again."""
    return lambda step, steps, steps_per_epoch: factor ** int(step / steps_per_epoch / epochs)


def cosine(stretch: Rate = 1.0, end: Fraction = 0.0) -> Schedule:
    """(1 + cos(pi t / (stretch T))) / 2, per step: ends at 0; from 1 to `end` instead, where that is given.

    With stretch 2 it ends at half (CV-DD's eta); below 1 it goes down, up and so on: 1/3 is down, up, down.
    """
    return lambda step, steps, steps_per_epoch: end + (1 - end) * (1 + math.cos(math.pi * step / (stretch * steps))) / 2


def warmup_cosine(epochs: NotNegative, start: Fraction = 0.01) -> Schedule:
    """Linear from `start` to 1 over so many epochs, then a cosine to 0 over the steps that are left."""

    def factor(step: int, steps: int, steps_per_epoch: float) -> float:
        warm = epochs * steps_per_epoch
        if step < warm:
            return start + (1 - start) * step / warm
        return (1 + math.cos(math.pi * (step - warm) / (steps - warm))) / 2

    return factor


SCHEDULES = Components(
    "schedule",
    "ddbench.schedules",
    {
        "constant": constant,
        "step": step_at,
        "step-every": step_every,
        "cosine": cosine,
        "warmup-cosine": warmup_cosine,
    },
)

OptimizerFactory = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]


def sgd(
    lr: Rate, momentum: Fraction = 0.0, weight_decay: NotNegative = 0.0, nesterov: bool = False
) -> OptimizerFactory:
    """Stochastic gradient descent; weight decay on every parameter."""
    return lambda parameters: torch.optim.SGD(
        parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov, fused=True
    )


def adam(lr: Rate, weight_decay: NotNegative = 0.0, betas: Betas = (0.9, 0.999)) -> OptimizerFactory:
    """Adam; weight decay is added to the gradient (L2), on every parameter."""
    first, second = betas
    return lambda parameters: torch.optim.Adam(
        parameters, lr=lr, betas=(first, second), weight_decay=weight_decay, fused=True
    )


def adamw(
    lr: Rate, weight_decay: NotNegative = 0.01, betas: Betas = (0.9, 0.999), decay_all: bool = False
) -> OptimizerFactory:
    """AdamW; weight decay only on tensors of 2 or more dimensions (not on biases and norms), or on all."""
    first, second = betas

    def make(parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        everything = list(parameters)
        if decay_all:
            return torch.optim.AdamW(everything, lr=lr, betas=(first, second), weight_decay=weight_decay, fused=True)
        groups = [
            {"params": [p for p in everything if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for p in everything if p.ndim < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=lr, betas=(first, second), fused=True
        )

    return make


OPTIMIZERS = Components("optimizer", "ddbench.optimizers", {"sgd": sgd, "adam": adam, "adamw": adamw})
