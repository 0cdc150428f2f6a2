"""`soft`: one stored soft label per image."""

import torch

from ddbench.errors import UsageError
from ddbench.synset.synset import SynSet, Targets
from ddbench.synset.targets import Binding, TargetKind, own_targets
from ddbench.synset.targets.encodings import check_shapes, encoding_of, stored_encoding
from ddbench.synset.views import drawn, training_count
from ddbench.training.batch_schedule import Batch, Labeller

FORMS = ("logits", "probabilities")
PACKED = ("int8", "topk")


class Soft(TargetKind):
    """Stored labels [N, K], a row for each training image: float32 or float16 logits, or probabilities that sum to 1.

    Params: `form`, "logits" or "probabilities"; and `mixed`, what is blended in a mixed batch, "probabilities" where it
    is left out, or "logits" (INFER). The loss in the student's recipe says the temperature.

    With `encoding`, "int8" or "topk", logits are written as `ddbench.synset.targets.encodings` says, the N rows as one entry.
    """

    def check(self, synset: SynSet) -> None:
        """See the base class."""
        targets = own_targets(synset)
        if set(targets.params) - {"mixed", "encoding"} != {"form"} or targets.params["form"] not in FORMS:
            raise UsageError(f"soft targets: params must be form = logits or probabilities, not {targets.params}")
        if targets.params.get("mixed", FORMS[1]) not in FORMS:
            raise UsageError(f"soft targets: mixed must be logits or probabilities, not {targets.params['mixed']!r}")
        if synset.views is not None and drawn(synset) is not None:
            raise UsageError(
                f"soft targets: one label for each stored image does not fit {synset.views.kind}, which show parts of "
                "it: let teachers label online, or store a replay"
            )
        if "encoding" in targets.params:
            _check_packed(synset, targets)
        else:
            _check_plain(synset, targets)

    def bind(self, binding: Binding) -> Labeller:
        """Rows of a batch as logits; of a mixed batch, the logarithm of the mixed probabilities, or mixed logits."""
        targets = own_targets(binding.synset)
        labels = labels_of(targets, len(binding.synset.class_names)).to(binding.device)
        logits = labels.clamp_min(1e-12).log() if targets.params["form"] == "probabilities" else labels
        by_logits = targets.params.get("mixed") == "logits"

        def label(batch: Batch) -> torch.Tensor:
            own = logits[batch.index]
            if batch.permutation is None:
                return own
            if by_logits:
                return own * batch.weight + own[batch.permutation] * (1 - batch.weight)
            both = own.softmax(1) * batch.weight + own[batch.permutation].softmax(1) * (1 - batch.weight)
            return both.clamp_min(1e-12).log()

        return label

    def bytes(self, synset: SynSet) -> dict[str, int]:
        """See the base class."""
        return {"targets": sum(tensor.nbytes for tensor in own_targets(synset).tensors.values())}


def labels_of(targets: Targets, classes: int) -> torch.Tensor:
    """Labels float32 [N, K] of targets of this kind, in their form, decoded."""
    if "encoding" not in targets.params:
        return targets.tensors["labels"].float()
    return stored_encoding(targets, classes).read(targets.tensors, classes)


def packed(targets: Targets, encoding: str, topk: int | None, classes: int) -> Targets:
    """Targets of this kind in another encoding.

    "fp16" keeps the form; "int8" and "topk" write logits, of probabilities their logarithm, none below 1e-12.

    Raises:
        UsageError: an unknown encoding, k out of range, or a label beyond what it holds.
    """
    how, labels, params = encoding_of(encoding, topk, classes), labels_of(targets, classes), dict(targets.params)
    params.pop("encoding", None)
    if encoding == "fp16":
        tensors = {"labels": labels.half()}
    else:
        if params["form"] == "probabilities":
            params["form"], labels = "logits", labels.clamp_min(1e-12).log()
        params["encoding"], tensors = encoding, how.write(labels)
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise UsageError(f"soft targets: a label is too large for {encoding}")
    return Targets("soft", params, tensors)


def _check_plain(synset: SynSet, targets: Targets) -> None:
    if set(targets.tensors) != {"labels"}:
        raise UsageError("soft targets hold one tensor, labels")
    labels, shape = targets.tensors["labels"], (training_count(synset), len(synset.class_names))
    if tuple(labels.shape) != shape or labels.dtype not in (torch.float32, torch.float16):
        raise UsageError(f"soft targets: labels must be float [N, K] = {list(shape)}, not {list(labels.shape)}")
    if targets.params["form"] == "probabilities":
        off = (labels.float().sum(1) - 1).abs().max()
        if float(labels.min()) < 0 or float(off) > 1e-3:
            raise UsageError("soft targets: probabilities must be 0 or more and sum to 1 in every row")


def _check_packed(synset: SynSet, targets: Targets) -> None:
    if targets.params["encoding"] not in PACKED or targets.params["form"] != "logits":
        raise UsageError(f"soft targets: logits may have an encoding, {' or '.join(PACKED)}, not {targets.params}")
    classes = len(synset.class_names)
    how = stored_encoding(targets, classes)
    check_shapes(targets, how.shapes(training_count(synset), classes))
    how.check(targets.tensors, classes)


SOFT = Soft()
