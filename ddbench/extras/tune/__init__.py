"""Hyper-parameter search on a holdout of the training split."""

from ddbench.extras.tune.grid import draw as draw
from ddbench.extras.tune.grid import parse_grid as parse_grid
from ddbench.extras.tune.search import Candidate as Candidate
from ddbench.extras.tune.search import TuneReport as TuneReport
from ddbench.extras.tune.search import held_out as held_out
from ddbench.extras.tune.search import tune as tune

__all__ = ["Candidate", "TuneReport", "draw", "held_out", "parse_grid", "tune"]
