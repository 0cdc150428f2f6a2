"""`projector`: labels made online by a frozen encoder whose low-rank adaptation is stored, for any images."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ddbench.data.spaces import transform_for
from ddbench.errors import UsageError
from ddbench.hashing import digest, is_digest
from ddbench.networks import clip
from ddbench.synset.projection import (
    COLUMNS,
    Encoder,
    Projector,
    ProjectorForm,
    check_factors,
    named_encoder,
    text_columns,
)
from ddbench.synset.synset import SynSet, Targets
from ddbench.synset.targets import Binding, TargetKind, own_targets
from ddbench.synset.teachers import Recall, Teacher
from ddbench.training.batch_schedule import Batch, Labeller

PARAMS = {"encoder", "columns", "conv", "scale", "normalised"}
ENCODERS = {"teacher": {"kind", "hash"}, "open_clip": {"kind", "model", "tag", "weights"}}
LONGEST_PROMPT = 1000


@dataclass(frozen=True, eq=False)
class ProjectorTeacher(Teacher):
    """A projector as one of the networks that label: its weights are the factors, its module is merged."""

    targets: Targets
    encoder: Encoder

    def facts(self) -> dict[str, Any]:
        """See the base class."""
        return {**super().facts(), "projector": self.targets.params}

    @cached_property
    def merged(self) -> Projector:
        """Factors merged into a copy of the encoder, on the CPU."""
        return Projector(self.encoder, _columns(self.targets, self.class_names), self.state, form_of(self.targets))

    def module(self, device: torch.device) -> nn.Module:
        """See the base class; the one network is moved, not copied."""
        return self.merged.to(device)


class Projected(TargetKind):
    """Logits s (W + A B)^T E'(x), E' the encoder with factors added to its convolutions; see `ddbench.synset.projection`.

    Params:
        encoder: {"kind": "teacher", "hash": ...}, a network in the cache without its head; or {"kind": "open_clip",
            "model": ..., "tag": ... or null, "weights": digest}, with "seed" where the tag is null: drawn weights.
        columns: null, W is stored as the tensor `columns` [d, K]; or {"prompt": "a photo of a {}.", "texts": digest}: W is
            made of one text for each class by the encoder's own text tower, and needs no storage.
        conv, scale, normalised: see `projection.ProjectorForm`.

    Tensors are the factors, float32, by the names of `projection.Factors`.
    """

    def check(self, synset: SynSet) -> None:
        """See the base class; whether factors fit the encoder is seen when it is there (`bind`)."""
        targets = own_targets(synset)
        check_params(targets.params)
        _check_tensors(targets, len(synset.class_names))

    def bind(self, binding: Binding) -> Labeller:
        """Merged projector sees the batch mapped from the set's space into its own, without gradients."""
        teacher = projector_of(binding.synset, binding.recall)
        module = teacher.module(binding.device)
        own = transform_for(binding.synset.space, binding.dataset).to(binding.device)
        theirs = transform_for(teacher.space, binding.dataset).to(binding.device)
        same = teacher.space == binding.synset.space

        @torch.no_grad()
        def label(batch: Batch) -> Tensor:
            logits: Tensor = module(batch.images if same else theirs.encode(own.decode(batch.images)))
            return logits

        return label

    def bytes(self, synset: SynSet) -> dict[str, int]:
        """Factors, and columns where they are stored; the encoder is external, and what makes columns of texts."""
        targets = own_targets(synset)
        encoder = named_encoder(targets.params["encoder"])
        return {
            "targets": sum(tensor.nbytes for tensor in targets.tensors.values()),
            "external": encoder.stored + (0 if targets.params["columns"] is None else encoder.texts),
        }

    def teachers(self, synset: SynSet) -> list[Teacher]:
        """Projector: it labels any image."""
        return [projector_of(synset)]


def projector_of(synset: SynSet, recall: Recall | None = None) -> ProjectorTeacher:
    """Projector of a set, checked against its encoder.

    Raises:
        UsageError: the encoder cannot be had, reads other channels, or has parts of other shapes.
    """
    targets = own_targets(synset)
    encoder = named_encoder(targets.params["encoder"], recall)
    if encoder.channels != synset.channels:
        raise UsageError(f"encoder {encoder.name} reads {encoder.channels} channels, the set has {synset.channels}")
    check_factors(encoder, len(synset.class_names), targets.tensors, form_of(targets))
    stored = targets.tensors.get(COLUMNS)
    if stored is not None and len(stored) != encoder.width:
        raise UsageError(f"projector targets: columns must have {encoder.width} rows, not {len(stored)}")
    return ProjectorTeacher(
        network=f"projector on {encoder.name}",
        dataset=synset.dataset,
        split_hash=synset.split_hash,
        class_names=synset.class_names,
        channels=synset.channels,
        side=synset.side,
        space=encoder.space,
        recipe_hash=digest(targets.params),
        state=dict(targets.tensors),
        targets=targets,
        encoder=encoder,
    )


def form_of(targets: Targets) -> ProjectorForm:
    """Form in which the targets' factors become logits."""
    params = targets.params
    return ProjectorForm(params["conv"], params["scale"], params["normalised"])


def _columns(targets: Targets, class_names: tuple[str, ...]) -> Tensor:
    """W before its adaptation, [d, K]: stored, or made of its texts again."""
    texts = targets.params["columns"]
    if texts is None:
        return targets.tensors[COLUMNS]
    prompts = clip.prompts_of(texts["prompt"], class_names)
    if digest(prompts) != texts["texts"]:
        raise UsageError("projector targets: the classes are called otherwise here than when the projector was fitted")
    return text_columns(targets.params["encoder"], prompts)


def check_params(params: Any) -> None:
    """Raise UsageError unless `params` are those of targets of this kind."""
    if not isinstance(params, dict) or set(params) != PARAMS:
        raise UsageError(f"projector targets: params must be {', '.join(sorted(PARAMS))}")
    _check_encoder(params["encoder"])
    if params["conv"] not in ("square", "flat"):
        raise UsageError(f"projector targets: conv must be square or flat, not {params['conv']!r}")
    scale = params["scale"]
    if not isinstance(scale, float) or not 0 < scale < math.inf:
        raise UsageError(f"projector targets: scale must be a number above 0, not {scale!r}")
    if not isinstance(params["normalised"], bool):
        raise UsageError(f"projector targets: normalised must be true or false, not {params['normalised']!r}")
    _check_columns(params["columns"], params["encoder"]["kind"])


def _check_encoder(encoder: Any) -> None:
    kind = encoder.get("kind") if isinstance(encoder, dict) else None
    fields = ENCODERS.get(kind) if isinstance(kind, str) else None
    if fields is None or set(encoder) - {"seed"} != fields:
        raise UsageError(
            "projector targets: encoder must be a teacher with its hash, or an open_clip model with its tag"
        )
    if kind == "teacher":
        if not is_digest(encoder["hash"]) or "seed" in encoder:
            raise UsageError(f"projector targets: {encoder['hash']!r:.80} is not a teacher's hash")
        return
    tag, drawn = encoder["tag"], "seed" in encoder
    if not isinstance(encoder["model"], str) or not (tag is None or isinstance(tag, str)):
        raise UsageError("projector targets: model and tag of an open_clip encoder must be texts")
    if (tag is None) != drawn or (drawn and type(encoder["seed"]) is not int) or not is_digest(encoder["weights"]):
        raise UsageError("projector targets: an open_clip encoder needs the digest of its weights, and a tag or a seed")


def _check_columns(columns: Any, kind: str) -> None:
    if columns is None:
        return
    if not isinstance(columns, dict) or set(columns) != {"prompt", "texts"} or not is_digest(columns["texts"]):
        raise UsageError("projector targets: columns must be null, or a prompt and the digest of its texts")
    if not isinstance(columns["prompt"], str) or len(columns["prompt"]) > LONGEST_PROMPT:
        raise UsageError(f"projector targets: the prompt must be a text of at most {LONGEST_PROMPT} characters")
    clip.require_template(columns["prompt"])
    if kind != "open_clip":
        raise UsageError("projector targets: only an open_clip encoder makes columns of texts")


def _check_tensors(targets: Targets, classes: int) -> None:
    """Two-dimensional float32 tensors, factors in pairs, K columns."""
    tensors, stored = targets.tensors, targets.params["columns"] is None
    if stored != (COLUMNS in tensors):
        raise UsageError(f"projector targets: a tensor {COLUMNS} goes with columns = null, and with nothing else")
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32 or tensor.dim() != 2 or not tensor.numel():
            raise UsageError(
                f"projector targets: {name} must be a float32 matrix, not {tensor.dtype} {list(tensor.shape)}"
            )
        part, _, end = name.rpartition(".")
        if name != COLUMNS and (end not in ("a", "b") or not {f"{part}.a", f"{part}.b"} <= set(tensors)):
            raise UsageError(f"projector targets: {name!r} is not one of a pair of factors, PART.a and PART.b")
        if end == "a" and name != COLUMNS and tensor.shape[1] != len(tensors[f"{part}.b"]):
            raise UsageError(f"projector targets: the factors of {part} have different ranks")
        if name in (COLUMNS, f"{COLUMNS}.b") and tensor.shape[1] != classes:
            raise UsageError(f"projector targets: {name} must have a column for each of {classes} classes")


PROJECTOR = Projected()
