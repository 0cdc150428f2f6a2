"""Low-rank transfer of HeLlO: factors of a projector, fitted to the training split and its weak teachers.

    L = MSE(f(X), Y') + lambda CE(f(X), Y),   f(x) = s (W + A_0 B_0)^T E'(x),   E' with theta_l + A_l B_l for each convolution

Only A and B are learned. B is 0 at first, so that f begins as the encoder's own; A is N(0, 1 / rows). E' is in eval mode:
its norms keep their statistics. The factors are added to the weights in every step, which costs one small product each
and gives the same gradients as two thin convolutions; peft would wrap each layer instead, knows no square form, and its
networks could not be read by hash.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.func import functional_call

from ddbench.data.resizing import resized
from ddbench.data.spaces import Space
from ddbench.distillation.method import Hyper
from ddbench.distillation.task import Task
from ddbench.errors import UsageError
from ddbench.randomness import rng, seed_of
from ddbench.synset.projection import (
    COLUMNS,
    ConvForm,
    Encoder,
    Projector,
    ProjectorForm,
    changed_columns,
    changed_weights,
    convolutions,
    matrix_shapes,
    project,
)
from ddbench.synset.synset import Targets
from ddbench.synset.targets.projector import form_of
from ddbench.system.code import SYNTHESIS
from ddbench.training.batch_schedule import Labeller
from ddbench.training.loop import train
from ddbench.training.recipe import StudentRecipe

from ..decoupled.codecs import pixel_bounds
from ..students import cosine, optimizer, random_crop
from .image_encoders import CODE_VERSION as ENCODERS_CODE
from .image_encoders import ProjectorStart

CODE_VERSION = 1  # raise when a change here or in ddbench/synset/projection.py changes factors; a test pins the source


class FitFields(Hyper):
    """Low-rank transfer of the encoder and its columns."""

    rank_conv: int = Field(8, ge=0, description="r of every convolution; 0: E stays as it is")
    rank_columns: int = Field(64, ge=0, description="r of W; 0: W stays as it is")
    conv_form: ConvForm = Field("square", description="a convolution's matrix: (o, y) by (i, x), or o by (i, y, x)")
    scale: float = Field(1.0, gt=0, description="of the logits, s")
    normalised: bool = Field(False, description="features divided by their length, as in CLIP's cosine")
    fit_ce: float = Field(1.0, ge=0, description="weight of the cross-entropy with the classes, lambda")
    fit_optimizer: Literal["adamw", "sgd"] = Field("adamw", description="sgd has momentum 0.9")
    fit_lr: float = Field(1e-3, gt=0, description="step size, cosine to 0")
    fit_weight_decay: float = Field(0.0, ge=0, description="of the optimizer, on A and B")
    fit_epochs: int = Field(10, ge=1, description="passes over the training split")
    fit_batch: int = Field(128, ge=1, description="images in a step")
    fit_crop: Literal["resized", "pad", "none"] = Field("resized", description="random resized crop, or of padding")
    fit_mix: Literal["cutmix", "mixup", "none"] = Field("none", description="of every batch")

    @model_validator(mode="after")
    def _something_to_fit(self) -> Self:
        if not self.rank_conv and not self.rank_columns:
            raise ValueError("rank_conv and rank_columns are both 0: nothing would be fitted")
        return self

    def require_parts(self, encoder: Encoder) -> None:
        """Raise UsageError where an encoder has none of the parts that are to be adapted; called before teachers are trained."""
        if self.rank_conv and not convolutions(encoder.module):
            raise UsageError(f"encoder {encoder.name} has no convolutions to adapt: set rank_conv to 0")

    def form(self) -> ProjectorForm:
        """Form in which factors and features become logits."""
        return ProjectorForm(self.conv_form, self.scale, self.normalised)

    def fit_recipe(self, task: Task, name: str) -> StudentRecipe:
        """Training of the factors."""
        recipe = StudentRecipe(
            network=name,
            optimizer=optimizer(self.fit_optimizer, self.fit_lr, self.fit_weight_decay),
            schedule=cosine(1.0, 0),
            loss={"name": "mse-ce", "beta": self.fit_ce},
            labels="targets",
            augmentations=[*random_crop(self.fit_crop), {"name": "flip", "p": 0.5}],
            mix=None if self.fit_mix == "none" else {"name": self.fit_mix, "alpha": 1.0},
            epochs=self.fit_epochs,
            batch=self.fit_batch,
        )
        return recipe.flipped(task.dataset.flip)


class FromSpace(nn.Module):
    """Adapter of a network to images of another space, pixel or normalized; equal spaces are left alone."""

    gain: Tensor
    offset: Tensor

    def __init__(self, inner: nn.Module, theirs: Space, own: Space, channels: int) -> None:
        """`inner` reads `theirs`; images come in `own`."""
        super().__init__()
        self.inner, self.same = inner, theirs == own
        (black, white), (low, high) = pixel_bounds(own, channels), pixel_bounds(theirs, channels)
        gain = (high - low) / (white - black)
        self.register_buffer("gain", gain, persistent=False)
        self.register_buffer("offset", low - black * gain, persistent=False)

    def forward(self, images: Tensor) -> Any:
        """Output of `inner` for images [b, C, H, W] in the space that they come in."""
        return self.inner(images if self.same else images * self.gain + self.offset)


class Adapted(nn.Module):
    """A projector with factors apart from its weights: images in the encoder's space to logits; parameters A and B."""

    columns: Tensor

    def __init__(self, start: ProjectorStart, factors: Mapping[str, Tensor], form: ProjectorForm) -> None:
        """Take factors by name, to be learned; the encoder's own weights are not."""
        super().__init__()
        self.form, self.side = form, start.encoder.side
        self.names = {name.replace(".", "-"): name for name in factors}  # a parameter's name has no dot
        self.factors = nn.ParameterDict({key: nn.Parameter(factors[name].clone()) for key, name in self.names.items()})
        self.register_buffer("columns", start.columns, persistent=False)
        # a copy, which moves to the device; in a tuple: neither in the state, nor put in train mode
        self._frozen = (deepcopy(start.encoder.module),)

    def _apply(self, function: Any, recurse: bool = True) -> "Adapted":
        self._frozen[0]._apply(function)
        super()._apply(function, recurse)
        return self

    def named_factors(self) -> dict[str, Tensor]:
        """A and B by their names in a set."""
        return {name: self.factors[key] for key, name in self.names.items()}

    def forward(self, images: Tensor) -> Tensor:
        """Logits [b, K] of images [b, C, H, W]."""
        body, factors = self._frozen[0], self.named_factors()
        features = functional_call(body, changed_weights(body, factors, self.form.conv), resized(images, self.side))
        return project(features, changed_columns(self.columns, factors), self.form)


def first_factors(encoder: Encoder, classes: int, fields: FitFields, seed: int) -> dict[str, Tensor]:
    """A ~ N(0, 1 / rows) and B = 0 of every adapted part; a rank is at most its matrix's sides."""
    factors = {}
    for part, (rows, columns) in matrix_shapes(encoder, classes, fields.form()).items():
        rank = min(fields.rank_columns if part == COLUMNS else fields.rank_conv, rows, columns)
        if rank:
            factors[f"{part}.a"] = torch.randn(rows, rank, generator=rng(seed, "factors", part)) / rows**0.5
            factors[f"{part}.b"] = torch.zeros(rank, columns)
    return factors


def fitted(task: Task, fields: FitFields, start: ProjectorStart, labels: Labeller, labelled_by: Any) -> Targets:
    """Targets of the kind `projector`, their factors fitted to the training split: the stage "projector".

    Args:
        task: whose split, device and stage seed are used.
        fields: how.
        start: the encoder and W.
        labels: Y' of a batch in the data set's normalized space; no gradient reaches what gives it.
        labelled_by: plain data that says what `labels` are, for the key.

    Raises:
        JobFailed: the fit diverged.
    """
    encoder, form, space = start.encoder, fields.form(), task.space("normalised")
    factors = first_factors(encoder, len(task.dataset.class_names), fields, task.stage_seed)
    recipe = fields.fit_recipe(task, encoder.name)
    key = {
        "recipe": recipe.model_dump(mode="json"),
        "encoder": encoder.params,
        "columns": start.columns_from,
        "form": [form.conv, form.scale, form.normalised],
        "ranks": [fields.rank_conv, fields.rank_columns],
        "labels": labelled_by,
        "space": space.to_json(),
        "code": [CODE_VERSION, ENCODERS_CODE, SYNTHESIS],
    }
    stage = task.open_cache("projector", key)

    def make() -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        adapted = Adapted(start, factors, form)
        network = FromSpace(adapted, encoder.space, space, encoder.channels).to(task.device)
        train(
            network,
            task.images(space),
            task.dataset.labels.to(task.device),
            recipe,
            seed=seed_of(task.stage_seed, "projector"),
            labeller=labels,
            loop=lambda begin, total: task.loop(begin, total, "fitting the projector"),
            checkpoint=stage.checkpoint("product"),
        )
        return {name: factor.detach() for name, factor in adapted.named_factors().items()}, {}

    tensors = dict(stage.product(make).tensors)
    if start.columns_from is None:
        tensors[COLUMNS] = start.columns
    params = {
        "encoder": encoder.params,
        "columns": start.columns_from,
        "conv": form.conv,
        "scale": form.scale,
        "normalised": form.normalised,
    }
    return Targets("projector", params, tensors)


def merged(task: Task, start: ProjectorStart, targets: Targets) -> nn.Module:
    """Projector of targets made here, for images in the data set's normalized space; on the device, in eval mode."""
    projector = Projector(start.encoder, start.columns, targets.tensors, form_of(targets))
    own = task.space("normalised")
    return FromSpace(projector, start.encoder.space, own, start.encoder.channels).to(task.device).eval()
