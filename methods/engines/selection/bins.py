"""Bins of Dataset Quantization: every class's samples by graph cut on one network's last-layer gradients.

One pass over the split gives h, the input of the network's last layer, and with its head's logits the gradients that
samples are compared by (`engines.selection.graph_cut`). Every class's bins are an entry of the stage "dq-bins", keyed by the
stage seed: all synthesis seeds and budgets share them, and an interrupted pass resumes at its class.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ddbench import networks
from ddbench.data.resizing import resized
from ddbench.data.spaces import Space
from ddbench.distillation.task import Task
from ddbench.errors import UsageError
from ddbench.hashing import tensors_digest
from ddbench.randomness import forked

from ..decoupled.squeeze import SqueezeFields, Weights, squeeze
from ..pretrained import LIBRARY_CLASSES, pretrained
from .coresets import embedder
from .graph_cut import LastLayer, graph_cut_bins, loss_gradient

CODE_VERSION = 1  # raise when a change here or in graph_cut.py changes bins; a test pins the source
_VALUES = 64 * 3 * 224 * 224  # of images in one forward


class BinFields(SqueezeFields):
    """Encoder and bins of samples."""

    weights: Weights = Field(
        "trained",
        description="of the encoder: trained here, pretrained (the library's, with a head drawn anew where the classes "
        "are not its own), or random",
    )
    teacher_epochs: int = Field(10, ge=1, description="passes over the training split, where the encoder is trained")
    encoder: str | None = Field(None, description="network that compares samples; none: the distillation network")
    input_side: int | None = Field(
        None, ge=1, description="side in pixels that images are resized to for a pretrained encoder; none: their own"
    )
    bins: int = Field(10, ge=1, description="N, bins of a class")
    cut_weight: float = Field(1.0, gt=0, description="lambda of the graph cut: how much central samples come first")
    softmax: Literal["double", "single"] = Field(
        "double", description="of the loss behind the gradients: of probabilities, as the code has it, or of logits"
    )

    @model_validator(mode="after")
    def _resized_for_pretrained(self) -> Self:
        if self.input_side is not None and self.weights != "pretrained":
            raise ValueError("input_side is for weights = pretrained: other encoders read images as they are")
        return self

    def require_bins(self, names: Sequence[str], pools: Sequence[Tensor], counts: Sequence[int]) -> None:
        """Raise UsageError where a class has fewer samples than are asked for, or than bins; called before a training."""
        for name, pool, count in zip(names, pools, counts, strict=True):
            if count > len(pool):
                raise UsageError(f"{count} samples of class {name!r} were asked for, but there are {len(pool)}")
            if count and len(pool) < self.bins:
                raise UsageError(f"the {len(pool)} samples of class {name!r} do not fill {self.bins} bins: lower bins")


@dataclass(frozen=True, eq=False)
class SampleEncoder:
    """A network in eval mode that samples are compared by.

    Attributes:
        embed: images [b, C, side, side] in `space` to features [b, d].
        head: features to logits.
        space, side: what it reads; images of another side are resized.
        hash: of its weights, head included.
    """

    embed: Callable[[Tensor], Tensor]
    head: nn.Module
    space: Space
    side: int
    hash: str

    @torch.no_grad()
    def __call__(self, task: Task, places: Tensor) -> tuple[Tensor, Tensor]:
        """Features float64 [n, d] and logits float64 [n, K] of training images, by their places; on the device."""
        parts = places.split(max(1, _VALUES // (task.dataset.channels * self.side**2)))
        features = torch.cat([self.embed(resized(task.read(self.space, part), self.side)) for part in parts])
        return features.double(), self.head(features).double()


def bins_of(task: Task, fields: BinFields, counts: Sequence[int]) -> list[list[Tensor]]:
    """Places of each class's samples by bin, int64; nothing for a class of which none are wanted.

    Raises:
        UsageError: too few samples (`require_bins`), a network without an embedding, weights that cannot be had.
        JobFailed: the encoder's training diverged.
    """
    pools = task.class_indices()
    fields.require_bins(task.dataset.class_names, pools, counts)
    encoder = _encoder(task, fields)
    key = {
        "encoder": encoder.hash,
        "space": encoder.space.to_json(),
        "side": encoder.side,
        "bins": fields.bins,
        "weight": fields.cut_weight,
        "softmax": fields.softmax,
        "code": CODE_VERSION,
    }
    stage = task.open_cache("dq-bins", key)
    by_class: list[list[Tensor]] = []
    for label in task.loop(0, len(pools), "binning"):
        pool, entry = pools[label], f"class-{label:05d}"

        def make(label: int = label, pool: Tensor = pool) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
            features, logits = encoder(task, pool)
            labels = torch.full((len(pool),), label, device=logits.device)
            similarity = LastLayer.of(loss_gradient(logits, labels, fields.softmax), features)
            bins = graph_cut_bins(similarity, fields.bins, fields.cut_weight)
            return {"order": torch.cat(bins)}, {"sizes": [len(part) for part in bins]}

        if not counts[label]:
            by_class.append([])
            continue
        product = stage.load(entry)
        if product is None:
            with stage.locked():
                product = stage.load(entry) or stage.save(entry, *make())
        by_class.append([pool[part] for part in product.tensors["order"].split(product.info["sizes"])])
    return by_class


def _encoder(task: Task, fields: BinFields) -> SampleEncoder:
    data = task.dataset
    name = networks.canonical(fields.encoder or task.network, side=fields.input_side or data.side)
    if fields.weights == "pretrained":
        return _pretrained(task, name, fields.input_side or data.side)
    embedder(task.create_stage_network("dq-encoder", name=name))  # before a training: one that has no embedding
    teacher = squeeze(task, fields, [name])[name]
    module = teacher.module(task.device)
    return SampleEncoder(embedder(module), cast(nn.Module, module.head), teacher.space, data.side, teacher.hash)


def _pretrained(task: Task, name: str, side: int) -> SampleEncoder:
    data = task.dataset
    network, space = pretrained(name, channels=data.channels, side=side)
    embed = embedder(network)
    if len(data.class_names) != LIBRARY_CLASSES:
        with forked(task.stage_seed, "dq-head"):
            network.head = nn.Linear(cast(nn.Linear, network.head).in_features, len(data.class_names))
    network = network.to(task.device).eval().requires_grad_(False)
    return SampleEncoder(embed, cast(nn.Module, network.head), space, side, tensors_digest(network.state_dict(), {}))


def drawn(task: Task, label: int, bins: Sequence[Tensor], count: int) -> Tensor:
    """Places of `count` samples of a class, int64: of each bin its share (`bin_shares`), at random."""
    tie_break = torch.randperm(len(bins), generator=task.rng("dq-ties", label)).tolist()
    chosen = []
    for number, share in enumerate(bin_shares([len(places) for places in bins], count, tie_break)):
        order = torch.randperm(len(bins[number]), generator=task.rng("dq", label, number))
        chosen.append(bins[number][order[:share]])
    return torch.cat(chosen)


def bin_shares(sizes: Sequence[int], count: int, tie_break: Sequence[int]) -> list[int]:
    """Split `count` samples over bins, by largest remainder of the quotas count * size / M.

    Bins of one size have equal remainders: `tie_break`, a permutation, says which of them come first. Drawn at random
    it leaves bins as likely as each other also where fewer samples than bins are wanted.
    """
    whole = sum(sizes)
    shares = [count * size // whole for size in sizes]
    first = sorted(range(len(sizes)), key=lambda n: (-(count * sizes[n] % whole), tie_break[n]))
    for number in first[: count - sum(shares)]:
        shares[number] += 1
    return shares
