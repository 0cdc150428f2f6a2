"""Several processes on one training: the steps of one process."""

import sys

import pytest
import ranks
import torch

from ddbench import distributed
from ddbench.distributed import Ranks, launch
from ddbench.errors import UsageError

CUTMIX = {"name": "cutmix", "alpha": 1.0}
PLANS = (
    ("convnet-d2-w8", 12),
    ("convnet-d2-w8", 11, None, CUTMIX),  # rows of unequal number, and images mixed across ranks
    ("convnet-d2-w8-bn", 12, 6),  # each rank normalises its six rows
    ("mlp-w16", 30, None, {"name": "mixup", "alpha": 1.0}, True),  # the whole set is one batch, read in parts
)


@pytest.fixture(scope="module")
def together():
    return launch(ranks.trainings, *PLANS, device="cpu", devices=2)


@pytest.mark.parametrize("place", range(len(PLANS)), ids=lambda place: "-".join(map(str, PLANS[place][:3])))
def test_two_processes_take_the_steps_of_one(together, place):
    """At the same global batch: losses of all steps and weights at the end, in float64."""
    losses, state, final, read = ranks.training(*PLANS[place])
    their_losses, their_state, their_final, their_read = together[place]
    assert len(losses) > 5 and their_losses == pytest.approx(losses, rel=1e-10)
    assert their_final == pytest.approx(final, rel=1e-10)
    for name, value in state.items():
        if "running" not in name and "tracked" not in name:  # of the first rank's rows
            torch.testing.assert_close(their_state[name], value, rtol=1e-9, atol=1e-11)
    assert their_read == read / 2


def test_a_batch_that_cannot_be_shared_is_refused():
    assert launch(ranks.refusal, device="cpu", devices=2) == (
        "UsageError: a batch of 1 images cannot be shared by 2 devices: use fewer"
    )


class Three:
    """A stand-in for Fabric: rank 1 of 3, whose neighbours hold what they should."""

    global_rank, world_size = 1, 3

    def __init__(self, whole, parts):
        self.whole, self.parts = whole, parts

    def all_gather(self, own):
        found = own.new_full((3, *own.shape), float("nan"))
        for row, part in zip(found, self.parts, strict=True):
            row[: part.stop - part.start] = self.whole[part]
        return found


def test_rows_are_parts_and_parts_are_the_whole():
    whole = torch.randn(8, 2)
    own = Ranks(Three(whole, (slice(0, 3), slice(3, 6), slice(6, 8))))
    assert own.rows(8) == slice(3, 6) and own.rows(3) == slice(1, 2)
    mine = whole[own.rows(8)].clone().requires_grad_()
    found = own.whole(mine, 8)
    assert torch.equal(found, whole)
    (found * torch.arange(16.0).view(8, 2)).sum().backward()
    assert mine.grad.tolist() == [[6.0, 7.0], [8.0, 9.0], [10.0, 11.0]]


def test_alone_there_are_no_ranks(monkeypatch):
    assert distributed.current() is None and not distributed.follows()
    monkeypatch.setenv("NODE_RANK", "1")
    assert distributed.follows()


def test_what_is_missing_is_said(monkeypatch):
    for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="--nodes 2: the environment has no NODE_RANK and no MASTER_ADDR and no"):
        launch(ranks.refusal, device="cpu", devices=1, nodes=2)
    with pytest.raises(UsageError, match="--devices 9: torch finds 0 CUDA devices here"):
        launch(ranks.refusal, device="cuda", devices=9)
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(UsageError, match=r"several devices need Lightning Fabric: pip install 'ddbench\[fabric\]'"):
        launch(ranks.refusal, device="cpu", devices=2)
