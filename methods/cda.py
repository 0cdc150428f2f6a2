"""CDA: Yin and Shen, Dataset Distillation via Curriculum Data Synthesis in Large Data Era, TMLR 2024, arXiv 2311.18838.

SRe2L with a curriculum in the recover stage: the crop's share of the area is uniform on (c(t), 1), where with
S = milestone * T

    t < S:  c(t) = 0.08 + 0.92 (1 + cos(pi t / S)) / 2       (or a line, or a step)
    t >= S: c(t) = 0.08

falls from whole images to small windows: global structure first, then local detail. All else is `sre2l`.

Differences from the paper: see `DIFFERENCES`. Figures: `benchmarks/decoupled.md`, and the records of `results/measured`.
"""

from typing import Literal

from pydantic import Field

from ddbench.distillation.method import Method

from .engines.decoupled.pipeline import DecoupledHyper
from .sre2l import DIFFERENCES, TOY, distill


class CDAHyper(DecoupledHyper):
    """Hyper-parameters of `cda`."""

    curriculum: Literal["none", "step", "linear", "cosine"] = Field(
        "cosine", description="how c falls from 1 to crop_low"
    )


METHOD = Method(
    name="cda",
    hyper=CDAHyper,
    distill=distill,
    title="Curriculum data augmentation",
    paper="Yin and Shen 2024",
    arxiv="2311.18838",
    differences=DIFFERENCES,
    snapshots=True,
    network="convnet-bn",
    toy=TOY,
)
