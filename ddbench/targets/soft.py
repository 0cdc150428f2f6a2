"""`soft`: one stored soft label per image."""

import torch

from ddbench.errors import UsageError
from ddbench.streams import Batch, Labeller
from ddbench.synset import SynSet, Targets
from ddbench.targets import Binding, TargetKind
from ddbench.views import drawn, training_count

FORMS = ("logits", "probabilities")


class Soft(TargetKind):
    """Stored labels [N, K], a row for each training image: float32 or float16 logits, or probabilities that sum to 1.

    Params: `form`, "logits" or "probabilities"; and `mixed`, what is blended in a mixed batch, "probabilities" where it
    is left out, or "logits" (INFER). The loss in the student's recipe says the temperature.
    """

    def check(self, synset: SynSet) -> None:
        """See the base class."""
        targets = _own(synset)
        if set(targets.params) - {"mixed"} != {"form"} or targets.params["form"] not in FORMS:
            raise UsageError(f"soft targets: params must be form = logits or probabilities, not {targets.params}")
        if targets.params.get("mixed", FORMS[1]) not in FORMS:
            raise UsageError(f"soft targets: mixed must be logits or probabilities, not {targets.params['mixed']!r}")
        if synset.views is not None and drawn(synset) is not None:
            raise UsageError(
                f"soft targets: one label for each stored image does not fit {synset.views.kind}, which show parts of "
                "it: let teachers label online, or store a replay"
            )
        if set(targets.tensors) != {"labels"}:
            raise UsageError("soft targets hold one tensor, labels")
        labels, shape = targets.tensors["labels"], (training_count(synset), len(synset.class_names))
        if tuple(labels.shape) != shape or labels.dtype not in (torch.float32, torch.float16):
            raise UsageError(f"soft targets: labels must be float [N, K] = {list(shape)}, not {list(labels.shape)}")
        if targets.params["form"] == "probabilities":
            off = (labels.float().sum(1) - 1).abs().max()
            if float(labels.min()) < 0 or float(off) > 1e-3:
                raise UsageError("soft targets: probabilities must be 0 or more and sum to 1 in every row")

    def bind(self, binding: Binding) -> Labeller:
        """The rows of a batch as logits; of a mixed batch, the logarithm of the mixed probabilities, or mixed logits."""
        targets = _own(binding.synset)
        labels = targets.tensors["labels"].float().to(binding.device)
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
        return {"targets": _own(synset).tensors["labels"].nbytes}


def _own(synset: SynSet) -> Targets:
    assert synset.targets is not None
    return synset.targets


SOFT = Soft()
