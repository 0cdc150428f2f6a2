"""SRe2L++: the baseline of CV-DD (Cui et al. 2025, arXiv 2501.07575): SRe2L with better settings.

`sre2l` but for three things: images begin as real patches of middling difficulty, crops and flips are drawn at every
resolution, and labels are batch-specific: the teacher's batch norms use the statistics of the student's own sub-batch
of views (BSSL), as the student's do.

Differences from the paper: see `DIFFERENCES`. Figures: `benchmarks/decoupled.md`, and the records of `results/measured`.
"""

from typing import Literal

from pydantic import Field

from ddbench.distillation.method import Method

from .engines.decoupled.pipeline import DecoupledHyper
from .sre2l import DIFFERENCES as SRE2L
from .sre2l import TOY, distill

DIFFERENCES = (
    *SRE2L,
    "the patches' generator is not published: here the crops around the median of the teacher's cross-entropy",
    "a student's step takes its two sub-batches in one forward, batch norms normalizing each by itself",
)


class SRe2LPPHyper(DecoupledHyper):
    """Hyper-parameters of `sre2l++`."""

    init: Literal["noise", "real", "patches"] = Field("patches", description="what images begin as")
    difficulty: Literal["easy", "medium"] = Field("medium", description="of the patches: easiest, or around the median")
    label_bn: Literal["eval", "batch"] = Field("batch", description="statistics that the teacher's batch norms use")


METHOD = Method(
    name="sre2l++",
    hyper=SRe2LPPHyper,
    distill=distill,
    title="SRe2L with real patches and batch-specific labels",
    paper="Cui et al. 2025",
    arxiv="2501.07575",
    differences=DIFFERENCES,
    snapshots=True,
    network="convnet-bn",
    toy={**TOY, "pool": 20},
)
