"""Calls of the package: every job gives records, frames, figures or plain data, and commands give the same."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from command import ddbench as command
from command import done
from matplotlib.figure import Figure

import ddbench
from ddbench.data.registry import load_dataset
from ddbench.errors import UsageError
from ddbench.progress import Reporter
from ddbench.records.store import read_record
from ddbench.report import columns
from ddbench.settings import results_dir

TOY = {"recipe": "generic", "ipc": 1, "protocols": ["toy-hard-v1"], "seeds": 2}


def test_every_name_is_there():
    assert set(ddbench.__all__) == set(dir(ddbench))
    assert all(callable(getattr(ddbench, name)) for name in ddbench.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = ddbench.nothing


@pytest.fixture
def recorded(toys):
    """The report of a run, its records in the default folder."""
    ddbench.run("random", **TOY)
    return ddbench.run("toy", **TOY)


def test_run_is_the_command_run(recorded, tmp_path):
    words = ("run", "toy", "--recipe", "generic", "--ipc", "1", "--protocol", "toy-hard-v1", "--seeds", "2")
    done(command(*words, "--results", tmp_path / "again"))
    (path,) = recorded.records
    (copy,) = ddbench.RecordStore(tmp_path / "again")
    record = read_record(path)
    assert (recorded.done, recorded.exit_code()) == (2, 0) and copy.key() == record.key()
    assert [(run.seed, run.top1) for run in copy.runs] == [(run.seed, run.top1) for run in record.runs]
    assert ddbench.run("toy", **TOY).reused == 2


def test_a_sweep_counts_all_jobs_from_the_start(toys):
    class Watch(Reporter):
        def __init__(self):
            self.totals = set()

        def advance(self, label, done, total):
            self.totals |= {total} if label == "jobs" else set()

    watch = Watch()
    grid = ddbench.Sweep(
        methods=["toy"],
        datasets=[ddbench.DataName("digits")],
        budgets=[ddbench.Budget(ipc=1), ddbench.Budget(ipc=2)],
        protocols=["toy-hard-v1"],
        seeds=(0,),
        recipe="generic",
    )
    ddbench.sweep(grid, reporter=watch)
    assert watch.totals == {4}  # two sets, two students


def test_tables_are_frames_of_records(recorded):
    frame = ddbench.table(protocols=["toy-hard"])
    assert list(frame) == list(columns.CELL) and sorted(frame["method"]) == ["random", "toy"]
    rows = json.loads(done(command("table", "--json")).stdout)
    assert [row["top1"] for row in rows] == pytest.approx(frame["top1"].tolist())
    assert set(ddbench.table([results_dir()], methods=["toy"], view="variance")) >= set(columns.VARIANCE)
    with pytest.raises(UsageError, match="dm"):
        ddbench.table(methods=["dm"])


def test_comparisons_are_frames(recorded):
    assert set(ddbench.compare()) == set(columns.PAIRS) and len(ddbench.compare()) == 1
    assert set(ddbench.compare(view="ranks")["method"]) == {"random", "toy"}
    with pytest.raises(UsageError, match="no scores"):
        ddbench.scores(protocols=["toy-hard"])


def test_scores_are_a_frame(toys):
    ddbench.run("toy", recipe="generic", ipc=1, protocols=["hard-plain-v1"], networks=["mlp"], seeds=2)
    frame = ddbench.scores(methods=["toy"])
    assert isinstance(frame, pd.DataFrame) and list(frame) == list(columns.SCORES)


def test_plots_are_figures(recorded, tmp_path):
    assert isinstance(ddbench.plot(), Figure)
    ddbench.distill("toy", recipe="generic", ipc=1, out=tmp_path / "toy.safetensors")
    assert isinstance(ddbench.plot("images", sets=[tmp_path]), Figure)
    with pytest.raises(UsageError, match="bars"):
        ddbench.plot("bar")


def test_show_gives_plain_data(recorded, tmp_path):
    synset = ddbench.distill("toy", recipe="generic", ipc=1, out=tmp_path / "toy.safetensors")
    facts = ddbench.show(tmp_path / "toy.safetensors")
    assert facts["hash"] == synset.hash and json.dumps(facts)
    record = ddbench.show(recorded.records[0])
    assert record["record"]["method"] == "toy" and record["reproduce"][0].startswith("ddbench run toy")
    assert ddbench.draw(synset, tmp_path / "toy.png").read_bytes().startswith(b"\x89PNG")


def test_reproduce_plans_what_it_would_run(toys):
    table = ddbench.reproduce("dm", cells=["cifar10/1"], run=False)
    assert table.items and {item.dataset for item in table.items} == {"cifar10"}
    assert (table.report.done, {each.verdict for each in table.compared()}) == (0, {"not run"})
    with pytest.raises(UsageError, match="cifar10/1"):
        ddbench.reproduce("dm", cells=["cifar10/3"], run=False)


@pytest.mark.parametrize("kind", [torch.as_tensor, np.asarray, lambda values: values.tolist()])
def test_images_are_tensors_arrays_or_lists(kind, toys):
    digits = load_dataset("digits")
    images = ((digits.train.read()[:50].float() / 255 - digits.mean[0]) / digits.std[0]).numpy()
    labels = digits.train.labels[:50].numpy()
    record = ddbench.evaluate(kind(images), kind(labels), dataset="digits", protocol="toy-hard-v1", seeds=[4])
    assert [run.seed for run in record.runs] == [4] and record.imported


def test_compute_follows_arguments_then_the_environment(monkeypatch):
    monkeypatch.setenv("DDBENCH_THREADS", "3")
    assert ddbench.Compute.here().threads == 3 and ddbench.Compute.here(threads=2).threads == 2
    with pytest.raises(UsageError, match="threads"):
        ddbench.Compute.here(threads=0)


def test_a_set_records_how_it_was_computed(toys):
    made = ddbench.run("toy", **TOY, compute=ddbench.Compute(threads=2))
    assert {run.threads for run in read_record(made.records[0]).runs} == {2}
