"""`ddbench scores` and `ddbench compare` as a person meets them, and that what is missing can be made as they say."""

import csv
import io
import json
import shlex

import pandas as pd
import pytest
from command import ddbench, done

from ddbench.records.store import RecordStore
from ddbench.report import columns

HERE = ("--dataset", "digits")


def refused(result, *words):
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1, (result.stdout, result.stderr)
    assert all(word in result.stderr for word in words), result.stderr


@pytest.fixture
def quick(toys):
    """Two methods at one budget, two synthesis seeds, two students."""
    words = ("sweep", "--methods", "toy,random", "--recipe", "generic", "--ipc", "1", "--protocols", "toy-hard-v1")
    done(ddbench(*words, "--networks", "convnet-d1-w8,mlp", "--synthesis-seeds", "2", "--seeds", "2"))


def test_what_scores_lack_is_made_by_the_commands_they_name(toys, tmp_path):
    """From one record on: whatever is missing is made by the very command that is named, until nothing is."""
    own = shlex.split("run toy --recipe generic --ipc 1 --set ships=classes --network mlp --seeds 2")
    lent = tmp_path / "lent.safetensors"
    done(ddbench(*["distill", "toy", "--recipe", "generic", "--ipc", "1", "--set", "ships=classes", "--out"], lent))
    done(ddbench(*own, "--protocol", "hard-v1,shipped-v1"))
    for _ in range(4):
        rows = json.loads(done(ddbench("scores", "--methods", "toy", "--json")).stdout)
        (row,) = [row for row in rows if row["hard"] == "hard"]
        if row["missing"] is None:
            break
        for line in {part.rpartition("(")[2].rstrip(")") for part in row["missing"].split("; ")}:
            words = shlex.split(line.replace("SET-OF-toy.safetensors", str(lent)))
            again = ("--set", "ships=classes") if "toy" in words else ()
            done(ddbench(*words[1:], *again))
    assert row["missing"] is None and row["ior_baseline"] == "borrowed"
    for name in ("hlr", "ior", "lrs", "ars_hard"):
        assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
    assert 0 <= row["lrs"] <= 1 and row["student"] == "mlp"
    text = done(ddbench("scores", "--methods", "toy")).stdout
    assert "borrowed" in text and "Not measured" not in text


def test_scores_in_every_format(quick, tmp_path):
    done(ddbench("run", "random", "--ipc", "1", "--protocol", "hard-v1", "--network", "mlp", "--seeds", "1"))
    assert "ddbench run whole" in " ".join(done(ddbench("scores")).stdout.split())
    table = pd.read_csv(io.StringIO(done(ddbench("scores", "--format", "csv")).stdout))
    assert list(table) == list(columns.SCORES) and len(table) == 1 and table["top1"].dtype == float
    loaded = pd.read_json(io.StringIO(done(ddbench("scores", "--json")).stdout))
    assert set(loaded) == set(columns.SCORES) and loaded["top1"][0] == pytest.approx(table["top1"][0])
    out = tmp_path / "scores.tex"
    assert done(ddbench("scores", "--format", "latex", "--out", out)).stdout.strip() == str(out)
    assert r"\begin{tabular}" in out.read_text()
    assert done(ddbench("scores", "--format", "markdown")).stdout.startswith("**Scores")


def test_bad_scores_are_refused(quick):
    refused(ddbench("scores", "--weight", "50"), "50", "fraction")
    refused(ddbench("scores", "--methods", "tyo"), "tyo", "toy")
    refused(ddbench("scores", "--format", "html"), "html", "markdown")
    refused(ddbench("scores", "--dataset", "mnist"), "mnist", "digits")
    refused(ddbench("scores", "--methods", "toy"), "no scores", "hard")


def test_compare_shows_ranks_and_pairs(quick, tmp_path):
    one = done(ddbench("compare", *HERE, "--network", "mlp")).stdout
    assert "rank" in one and "Holm" in one and "than" in one
    several = done(ddbench("compare", *HERE)).stdout
    assert "rank" in several and "verdict" not in several
    pairs = pd.read_csv(io.StringIO(done(ddbench("compare", "--format", "csv")).stdout))
    assert list(pairs) == list(columns.PAIRS) and len(pairs) == 2
    ranks = pd.read_json(io.StringIO(done(ddbench("compare", "--json", "--view", "ranks")).stdout))
    assert set(ranks) == set(columns.RANKS) and len(ranks) == 4
    chosen = done(ddbench("compare", "--against", "random", "--format", "csv")).stdout
    assert len(list(csv.DictReader(io.StringIO(chosen)))) == 2
    out = tmp_path / "ranks.md"
    done(ddbench("compare", "--view", "ranks", "--format", "markdown", "--out", out))
    assert out.read_text().count("| method | rank |") == 2


def test_bad_comparisons_are_refused(quick):
    refused(ddbench("compare", "--alpha", "5"), "5", "0.05")
    refused(ddbench("compare", "--view", "letters"), "letters", "ranks")
    refused(ddbench("compare", "--against", "rnadom"), "rnadom", "random")
    refused(ddbench("compare", "--methods", "toy"), "nothing to compare")
    refused(ddbench("compare", "--view", "ranks", "--against", "toy"), "--against")


def test_table_has_the_views_variance_and_networks(quick):
    assert "between sets" in " ".join(done(ddbench("table", "--view", "variance", "--network", "mlp")).stdout.split())
    rows = json.loads(done(ddbench("table", "--view", "variance", "--json")).stdout)
    assert all(row["std_between"] >= 0 and row["std_within"] >= 0 for row in rows) and len(rows) == 4
    text = done(ddbench("table", "--view", "networks")).stdout
    assert "mlp" in text and "mean of others" in " ".join(text.split())
    rows = json.loads(done(ddbench("table", "--view", "networks", "--json")).stdout)
    assert len(rows) == 4 and {row["others"] for row in rows} <= {1, 2}


@pytest.mark.parametrize(
    ("words", "meanings"),
    [
        (("table",), columns.CELL),
        (("table", "--view", "variance"), columns.CELL | columns.VARIANCE),
        (("table", "--view", "networks"), columns.CELL | columns.NETWORKS),
        (("scores",), columns.SCORES),
        (("compare",), columns.PAIRS),
        (("compare", "--view", "ranks"), columns.RANKS),
    ],
)
def test_columns_are_explained_without_records(words, meanings, tmp_path):
    assert not RecordStore(tmp_path / "home" / "results").paths()
    assert json.loads(done(ddbench(*words, "--columns", "--json")).stdout) == meanings
    text = done(ddbench(*words, "--columns")).stdout
    assert all(name in text for name in meanings)
