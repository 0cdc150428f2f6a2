"""Image encoders of HeLlO and the columns W that they begin with: CLIP, a library's, a kept one, or a stand-in.

A foundation model has seen other data than the split. Where there is none to be had, a stand-in keeps that much: a
network that is trained here on some of the split's classes only and loses its head, so that the other classes are new
to it. The projector then serves all classes, whose images it is fitted to.
"""

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from ddbench import networks
from ddbench.distillation.task import Task
from ddbench.errors import UsageError
from ddbench.hashing import digest
from ddbench.networks import clip
from ddbench.networks.parts import Network
from ddbench.randomness import rng, seed_of
from ddbench.synset.projection import Encoder, clip_encoder, teacher_encoder, text_columns
from ddbench.synset.teachers import Teacher
from ddbench.system.code import SYNTHESIS
from ddbench.training.batch_schedule import Images
from ddbench.training.loop import train

from ..decoupled.squeeze import SqueezeFields, squeeze
from ..pretrained import LIBRARY_CLASSES, pretrained

CODE_VERSION = (
    1  # raise when a change here, in clip.py or projection.py changes encoders or columns; a test pins the source
)
STAND_IN, OPEN_CLIP, TEACHER = "stand-in", "open_clip:", "teacher:"
AT_ONCE = 64 * 3 * 224 * 224  # values of images in one forward


class EncoderFields(SqueezeFields):
    """Encoder E and columns W."""

    weights: Literal["trained"] = Field("trained", description="of networks that are trained here")
    encoder: str = Field(
        "open_clip:RN50:openai",
        description="open_clip:MODEL:TAG (without TAG: drawn weights), timm:NAME or torchvision:NAME with the library's "
        "weights, a network of ours trained on the split, teacher:HASH from the cache, or stand-in",
    )
    encoder_drawn: bool = Field(
        False, description="untrained weights for a timm:, torchvision: or own encoder: for trying the path only"
    )
    encoder_side: int | None = Field(
        None, ge=1, description="side in pixels that a timm: or torchvision: encoder reads; none: the images'"
    )
    prompt: str = Field("a photo of a {}.", description="text of a class, for an encoder with a text tower")
    columns: Literal["usual", "class-means"] = Field(
        "usual", description="W from texts where the encoder has a text tower, or from the features of each class"
    )
    stand_in_network: str | None = Field(None, description="of a stand-in; none: the distillation network")
    stand_in_share: float = Field(0.5, gt=0, lt=1, description="share of the classes that a stand-in is trained on")
    stand_in_epochs: int = Field(30, ge=1, description="passes over their images; else as teachers are trained")

    @field_validator("prompt")
    @classmethod
    def _one_place(cls, prompt: str) -> str:
        try:
            clip.require_template(prompt)
        except UsageError as error:
            raise ValueError(str(error)) from error
        return prompt


@dataclass(frozen=True, eq=False)
class ProjectorStart:
    """An encoder and the columns that the projector begins with.

    Attributes:
        encoder: E.
        columns: W, float32 [d, K], of length 1 each.
        columns_from: how W is made again, as in `targets.projector`; None: it is stored.
    """

    encoder: Encoder
    columns: Tensor
    columns_from: dict[str, Any] | None


def start_of(task: Task, fields: EncoderFields) -> ProjectorStart:
    """Make or find the encoder that the fields name, and its columns.

    Raises:
        UsageError: an unknown name, weights that cannot be had, other channels than the images'.
    """
    encoder = encoder_of(task, fields)
    if encoder.channels != task.dataset.channels:
        raise UsageError(
            f"encoder {encoder.name} reads {encoder.channels} channels, {task.dataset.id} has {task.dataset.channels}"
        )
    if fields.columns == "usual" and fields.encoder.startswith(OPEN_CLIP):
        prompts = clip.prompts_of(fields.prompt, task.dataset.class_names)
        texts = {"prompt": fields.prompt, "texts": digest(prompts)}
        return ProjectorStart(encoder, text_columns(encoder.params, prompts), texts)
    return ProjectorStart(encoder, class_means(task, encoder), None)


def require_encoder(task: Task, fields: EncoderFields) -> None:
    """Raise UsageError for what would fail after a training, called before: names and what the library lists."""
    name = fields.encoder
    sided = name.startswith(("timm:", "torchvision:")) and not fields.encoder_drawn
    if fields.encoder_side is not None and not sided:
        raise UsageError("encoder_side is for a timm: or torchvision: encoder with the library's weights")
    if name.startswith(OPEN_CLIP):
        clip.require_model(*_clip_name(name))
        clip.words_of(task.dataset.class_names)
    elif name == STAND_IN:
        stand_in_classes(task, fields.stand_in_share)
        own = networks.canonical(fields.stand_in_network or task.network, side=task.dataset.side)
        if not isinstance(task.create_stage_network("stand-in", name=own), Network):
            raise UsageError(f"network {own!r} has no embedding: choose one that ends in one linear layer")
    elif not name.startswith(TEACHER):
        networks.canonical(name, side=task.dataset.side)


def encoder_of(task: Task, fields: EncoderFields) -> Encoder:
    """See `start_of`. What is known of it goes into the set's provenance."""
    name = fields.encoder
    if name.startswith(OPEN_CLIP):
        model, tag = _clip_name(name)
        encoder = clip_encoder(model, tag, task.stage_seed)
        task.teachers[encoder.hash] = {"network": encoder.name, "encoder": "pretrained" if tag else "drawn"}
        return encoder
    if name == STAND_IN:
        return _kept(task, stand_in(task, fields), "stand-in", trained_on=stand_in_names(task, fields.stand_in_share))
    if name.startswith(TEACHER):
        wanted = name.removeprefix(TEACHER)
        teacher = task.recall_teacher(wanted)
        if teacher is None:
            raise UsageError(f"encoder {name[:20]} is not in the cache: give the hash of a teacher that is")
        return _kept(task, teacher, "kept")
    own = networks.canonical(name, side=task.dataset.side)
    if ":" in own and not fields.encoder_drawn:
        return _kept(task, _pretrained(task, own, fields.encoder_side), "pretrained")
    # a network whose weights are drawn has no side of its own to be resized to
    drawn = fields.model_copy(update={"weights": "random" if fields.encoder_drawn else "trained"})
    return _kept(task, squeeze(task, drawn, [own])[own], "drawn" if fields.encoder_drawn else "trained on the split")


def _kept(task: Task, teacher: Teacher, kind: str, **facts: Any) -> Encoder:
    encoder = teacher_encoder(teacher)  # before it is kept: one without an embedding is no encoder
    task.teachers[task.keep_teacher(teacher)] = {"network": teacher.network, "encoder": kind, **facts}
    return encoder


def _clip_name(name: str) -> tuple[str, str | None]:
    model, _, tag = name.removeprefix(OPEN_CLIP).partition(":")
    return model, tag or None


def _pretrained(task: Task, name: str, side: int | None) -> Teacher:
    """A library's network with its own weights, as a kept teacher; its outputs are the library's classes."""
    shape = {"channels": task.dataset.channels, "side": side or task.dataset.side}
    network, space = pretrained(name, **shape)
    made = task.teacher(name, space, digest(name), network.state_dict())
    outputs = tuple(f"output {number}" for number in range(LIBRARY_CLASSES))
    return replace(made, dataset=name, split_hash=digest(name), class_names=outputs, side=shape["side"])


# A stand-in


def stand_in_classes(task: Task, share: float) -> list[int]:
    """Classes that a stand-in is trained on, rising: at least 2 and not all, drawn by the stage seed."""
    count = len(task.dataset.class_names)
    if count < 3:
        raise UsageError(f"a stand-in encoder is trained on other classes: {count} are too few, choose another encoder")
    wanted = min(max(2, round(share * count)), count - 1)
    return sorted(torch.randperm(count, generator=rng(task.stage_seed, "stand-in"))[:wanted].tolist())


def stand_in_names(task: Task, share: float) -> list[str]:
    """Names of the classes that a stand-in is trained on."""
    return [task.dataset.class_names[label] for label in stand_in_classes(task, share)]


@dataclass(frozen=True, eq=False)
class SomeImages:
    """Some of a training's images, by their places in it; see `Images`."""

    images: Images
    places: Tensor

    @property
    def device(self) -> torch.device:
        """Device of all images."""
        return self.images.device

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Tensor) -> Tensor:
        return self.images[self.places.to(index.device)[index]]


def stand_in(task: Task, fields: EncoderFields) -> Teacher:
    """A network trained on some of the classes alone; the stage "stand-in", shared by all synthesis seeds."""
    chosen, space = stand_in_classes(task, fields.stand_in_share), task.space("normalised")
    name = networks.canonical(fields.stand_in_network or task.network, side=task.dataset.side)
    recipe = fields.teacher_recipe(name).model_copy(update={"epochs": fields.stand_in_epochs})
    recipe = recipe.flipped(task.dataset.flip)
    key = {
        "recipe": recipe.model_dump(mode="json"),
        "classes": chosen,
        "space": space.to_json(),
        "code": [CODE_VERSION, SYNTHESIS],
    }
    stage = task.open_cache("stand-in", key)

    def make() -> Teacher:
        labels = task.dataset.labels
        places = torch.isin(labels, torch.tensor(chosen)).nonzero()[:, 0]
        own = torch.searchsorted(torch.tensor(chosen), labels[places])
        shape = {"channels": task.dataset.channels, "side": task.dataset.side, "classes": len(chosen)}
        network = networks.create(name, **shape, seed=task.stage_seed, key=("stand-in",)).to(task.device)
        train(
            network,
            SomeImages(task.images(space), places),
            own.to(task.device),
            recipe,
            seed=seed_of(task.stage_seed, "stand-in"),
            loop=lambda start, total: task.loop(start, total, f"training a stand-in, {name}"),
            checkpoint=stage.checkpoint("teacher"),
        )
        made = task.teacher(name, space, digest(stage.key), network.state_dict())
        return replace(made, class_names=tuple(task.dataset.class_names[label] for label in chosen))

    return task.cached_teacher(stage, "teacher", make)


# Columns


def class_means(task: Task, encoder: Encoder) -> Tensor:
    """W [d, K]: the mean feature of each class's training images, divided by its length; the stage "class-means"."""
    key = {"encoder": encoder.hash, "space": encoder.space.to_json(), "side": encoder.side, "code": CODE_VERSION}
    return task.cached("class-means", key, lambda: ({"columns": _class_means(task, encoder)}, {})).tensors["columns"]


@torch.no_grad()
def _class_means(task: Task, encoder: Encoder) -> Tensor:
    body = deepcopy(encoder.module).to(task.device)
    total = torch.zeros(len(task.dataset.class_names), encoder.width, dtype=torch.float64, device=task.device)
    size = max(1, AT_ONCE // (encoder.channels * encoder.side**2))
    parts = torch.arange(len(task.dataset.labels)).split(size)
    for number in task.loop(0, len(parts), "averaging features"):
        features = body(encoder.read(task.read(encoder.space, parts[number])))
        total.index_add_(0, task.dataset.labels[parts[number]].to(task.device), features.double())
    return (
        torch.nn.functional.normalize(total, dim=1).T.float().cpu().contiguous()
    )  # a mean and a sum have one direction
