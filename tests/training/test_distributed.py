"""Several processes on one training: the steps of one process."""

import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
import ranks
import torch

import ddbench
from ddbench.budget import Budget
from ddbench.cli import options
from ddbench.errors import CannotWrite, UsageError
from ddbench.jobs.ddp import DDPExecutor
from ddbench.jobs.job import DataName
from ddbench.jobs.pool import Work
from ddbench.jobs.sweep import Sweep
from ddbench.records.store import read_record
from ddbench.settings import results_dir
from ddbench.system.rank import follow, follows
from ddbench.training.compute import Compute, check_devices
from ddbench.training.distributed import launch
from ddbench.training.ranks import Ranks, current

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
        "UsageError: a batch of 1 images cannot be split over 2 devices: use fewer"
    )


def test_every_rank_ends_with_one_network_and_it_is_nobody_elses():
    """Batch norms' running statistics among them: else a set would be labelled by another teacher than is named."""
    first, hashes = launch(ranks.teacher_of_digits, device="cpu", devices=2)
    assert len(hashes) == 2 and len(set(hashes)) == 1
    assert launch(ranks.teacher_of_digits, device="cpu", devices=2) == (first, hashes)
    assert ranks.teacher_of_digits()[0] != first  # one process, whose batch norms see whole batches, keeps another


def test_a_result_may_be_large():
    assert len(launch(ranks.much, 300_000, device="cpu", devices=2)) == 300_000


def test_what_python_does_at_a_process_end_does_not_count():
    """Threads of gloo that outlived the call aborted one process in seventy there."""
    assert launch(ranks.aborts_at_its_end, device="cpu", devices=2) == "done"


def test_what_ends_a_run_ends_it():
    with pytest.raises(CannotWrite, match="cannot write there"):
        launch(ranks.stops, CannotWrite("cannot write there"), device="cpu", devices=2)


@pytest.mark.parametrize(
    "variables",
    [
        {"NODE_RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "10.255.255.1", "MASTER_PORT": "1"},
        {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "1", "SLURM_NODEID": "1"},
        {"TORCHELASTIC_RUN_ID": "1", "RANK": "1", "WORLD_SIZE": "4", "GROUP_RANK": "1"},
    ],
    ids=["node", "slurm", "torchrun"],
)
def test_what_a_scheduler_says_is_not_listened_to_on_one_node(variables, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    assert launch(ranks.much, 3, device="cpu", devices=2) == b"xxx"
    assert dict(os.environ) == before


def test_work_whose_process_is_killed_is_tried_again(tmp_path):
    job = SimpleNamespace(compute=Compute.here(devices=2), mark=tmp_path / "mark")
    outcomes = []
    DDPExecutor(2, quiet=True).run_all(
        [Work(ranks.dies_once_job, job)], lambda work, outcome: outcomes.append(outcome) or []
    )
    assert [outcome.value for outcome in outcomes] == ["done"] and job.mark.exists()


def test_a_run_says_how_many_trained_it(toys):
    """Not how many it was asked for."""
    with pytest.raises(UsageError, match="devices 2, but this process trains with 1"):
        check_devices(Compute.here(devices=2))
    report = ddbench.sweep(grid(Compute.here(devices=2)))
    assert report.done == 0 and "devices 2, but this process trains with 1" in report.problems[0]


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


def test_nodes_that_are_about_other_jobs_are_stopped():
    class Apart:
        def all_gather(self, own):
            return torch.stack([own, own + 1])

    with pytest.raises(UsageError, match="the nodes are not about the same job"):
        Ranks(Apart()).check_same("dm")


def test_rows_are_parts_and_parts_are_the_whole():
    whole = torch.randn(8, 2)
    own = Ranks(Three(whole, (slice(0, 3), slice(3, 6), slice(6, 8))))
    assert own.shard(8) == slice(3, 6) and own.shard(3) == slice(1, 2)
    mine = whole[own.shard(8)].clone().requires_grad_()
    found = own.all_gather(mine, 8)
    assert torch.equal(found, whole)
    (found * torch.arange(16.0).view(8, 2)).sum().backward()
    assert mine.grad.tolist() == [[6.0, 7.0], [8.0, 9.0], [10.0, 11.0]]


def test_alone_there_are_no_ranks(monkeypatch):
    monkeypatch.setenv("NODE_RANK", "1")  # whatever a cluster's scheduler says of a run on one node
    assert current() is None and not follows()
    assert options.ddp_executor(2, 1, None) == DDPExecutor(2) and not follows()


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


def grid(how, **changes):
    fields = {"methods": ["toy"], "datasets": [DataName("digits")], "budgets": [Budget(ipc=1)], "recipe": "generic"}
    return Sweep(**{**fields, "protocols": ["toy-hard-v1"], "seeds": (0, 1), "compute": how, **changes})


def runs(report):
    return [run for path in report.records for run in read_record(path).runs]


def test_a_sweep_in_processes_that_train_together(toys, tmp_path):
    alone = runs(ddbench.sweep(grid(Compute.here()), results=tmp_path / "alone"))
    report = ddbench.sweep(grid(Compute.here(devices=2)), results=tmp_path / "two", engine=DDPExecutor(2))
    assert (report.done, report.exit_code()) == (2, 0)
    for one, two in zip(alone, runs(report), strict=True):
        assert (one.devices, two.devices, two.status, two.steps) == (1, 2, "ok", one.steps)
        assert two.final_loss == pytest.approx(one.final_loss, rel=1e-3)
    assert '"devices": 2' in report.records[0].read_text()
    assert '"devices"' not in next((tmp_path / "alone").rglob("*.json")).read_text()
    again = ddbench.sweep(grid(Compute.here(devices=2)), results=tmp_path / "two", engine=DDPExecutor(2))
    assert (again.reused, again.done) == (2, 0)


@pytest.mark.slow
def test_two_nodes_run_the_same_command(toys, tmp_path):
    """Each a driver of its own: both do the work together, the first writes the records, the other may be quiet."""
    words = "run toy --ipc 1 --recipe generic --protocol toy-hard-v1 --seeds 2 --nodes 2"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = []
    for rank in range(2):
        where = {"NODE_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        quiet = ["--quiet"] if rank else []  # a node's own affair
        command = [sys.executable, "-m", "ddbench", *words.split(), *quiet]
        nodes.append(
            subprocess.Popen(command, env={**os.environ, **where}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        )
    said = [node.communicate(timeout=300) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert not any(b"Initializing distributed" in told or b"Warning" in told for _, told in said)
    (path,) = results_dir().rglob("*.json")
    assert [(run.seed, run.devices, run.status) for run in read_record(path).runs] == [(0, 2, "ok"), (1, 2, "ok")]


def test_flags_that_do_not_go_together(monkeypatch):
    with pytest.raises(UsageError, match="take one job at a time: leave --workers out"):
        options.RayFlags().executor(2, devices=2)
    with pytest.raises(UsageError, match="--devices and --nodes go with --engine local"):
        options.RayFlags("ray").executor(None, nodes=2)
    for word in ("on", None):
        monkeypatch.setenv("DDBENCH_COMPILE", "on")
        with pytest.raises(UsageError, match="compile on: not where several devices train together"):
            Compute.here(compile=word, devices=2)
    monkeypatch.delenv("DDBENCH_COMPILE")
    assert options.RayFlags().executor(None) is None
    for name, value in (("NODE_RANK", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    try:
        assert options.RayFlags().executor(None, devices=2, nodes=3) == DDPExecutor(2, 3) and follows()
        with pytest.raises(UsageError, match="NODE_RANK='2': a whole number below --nodes 2 is needed"):
            DDPExecutor(1, 2)
    finally:
        follow(0)
