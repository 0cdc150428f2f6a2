"""The site: its rows against the definition, every number traced to a record, nothing from a record but as text."""

import json
import re
import socket
import threading
import urllib.error
import urllib.request
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from ddbench.leaderboard import forms
from ddbench.leaderboard.board import default_recipe, rows
from ddbench.leaderboard.build import MARK, build
from ddbench.leaderboard.drawings import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, chart, whisker
from ddbench.leaderboard.entries import Entry, _entry, file_name, read, united
from ddbench.leaderboard.serving import server_for
from made_records import a_record, without_set
from typer.testing import CliRunner

from ddbench.cli.app import app
from ddbench.distillation.method import find_method
from ddbench.errors import UsageError
from ddbench.hashing import digest
from ddbench.records.record import Record
from ddbench.records.store import RecordStore
from ddbench.report import papers as reported
from ddbench.report.frame import pooled, results_frame
from ddbench.report.significance import compare
from ddbench.report.tables import pivot

NETWORKS = {"student_network": "convnet-d3", "distill_network": "convnet-d3"}
NASTY = "<script>alert(1)</script>"


def record(method="dm", ipc=1, values=(0.5, 0.52), *, seed=0, dataset="digits", **changes):
    """A record with one run per value."""
    place = {"ipc": ipc, "synthesis": seed, "made": dataset, "dataset": dataset}
    return a_record(method, values, **place, **(NETWORKS | changes))


def toy():
    """What a page can show: draws, a tie, a gap, n/a, a failure, a reduced recipe, a shipped cell, a part of CIFAR."""
    shipped = {"protocol": "shipped-v1", "protocol_digest": digest("shipped")}
    return [
        record("dm", 1, (0.70, 0.72), seed=0),
        record("dm", 1, (0.74, 0.71, 0.73), seed=1),
        record("random", 1, (0.50, 0.52)),
        record("herding", 1, (0.505, 0.515)),
        record("datadam", 1, (0.60, 0.61), name="quick-reduced"),
        without_set("infer", "n/a", "needs two images per class", **NETWORKS),
        without_set("mtt", "failed", f"loss is not finite {NASTY}", **NETWORKS),
        record("dm", 10, (0.47, 0.48), dataset="cifar10", **shipped),
        record("dm", 10, (0.41, 0.42), dataset="cifar10-jpeg@6c6a762a", name="paper-reduced", **shipped),
    ]


def entries(records, standing="measured", **about):
    return [Entry(each, standing, about) for each in records]


def site(tmp_path, found, **more):
    build(found, tmp_path / "site", **({"pictures": False} | more))
    return tmp_path / "site"


def text_of(path):
    return path.read_text(encoding="utf-8")


class Page(HTMLParser):
    """A page's elements: tags with attributes, ids, and the table of rows as lists of cell texts and links."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.rows, self.words = [], set(), [], []
        self.cell = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        self.ids.add(attributes.get("id"))
        if tag == "tr":
            self.rows.append({"about": attributes, "cells": [], "links": []})
        elif tag in ("td", "th") and self.rows:
            self.cell = []
            self.rows[-1]["cells"].append(self.cell)
        elif tag == "a" and self.rows and self.cell is not None:
            self.rows[-1]["links"].append(attributes["href"])

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.cell = None

    def handle_data(self, text):
        self.words.append(text)
        if self.cell is not None:
            self.cell.append(text)

    def board(self):
        """Rows of the table of cells: {column: text}, with `about` and `links`."""
        heads = ["".join(cell).strip() for cell in self.rows[0]["cells"]]
        found = []
        for row in self.rows[1:]:
            texts = ["".join(cell).strip() for cell in row["cells"]]
            found.append(dict(zip(heads, texts, strict=True)) | {"about": row["about"], "links": row["links"]})
        return found


def script(path):
    """The data of a record's file."""
    text = text_of(path)
    assert text.startswith("ddbenchRecord(") and text.endswith(");\n")
    return json.loads(text.removeprefix("ddbenchRecord(").removesuffix(");\n"))


def addresses(page):
    """The values of every href and src of a page, in order."""
    return re.findall(r'\b(?:href|src)="([^"]*)"', page)


def board(folder):
    return Page(text_of(folder / "index.html")).board()


# --- rows


def test_numbers_of_a_row_are_those_of_its_runs():
    found = rows(entries(toy()), {})
    row = next(row for row in found if row.method == "dm" and row.dataset == "digits")
    means = np.array([np.mean([0.70, 0.72]), np.mean([0.74, 0.71, 0.73])])
    half = scipy.stats.t.ppf(0.975, 1) * means.std(ddof=1) / np.sqrt(2)
    assert row.top1 == pytest.approx(means.mean(), abs=1e-12)
    assert (row.low, row.high) == pytest.approx((means.mean() - half, means.mean() + half), abs=1e-12)
    assert (row.runs, row.draws, row.bytes, row.distill_seconds, row.train_seconds) == (5, 2, 1000.5, 8.5, 2.0)
    assert len(row.records) == 2 and row.status == "ok" and not row.reduced
    states = {row.method: (row.status, row.reason, row.top1) for row in found if row.status != "ok"}
    assert states["infer"] == ("n/a", "needs two images per class", None) and states["mtt"][0] == "failed"


def test_records_behind_a_cell_give_its_samples():
    records = toy()
    frame, members = pooled(records)
    assert set(members) == set(frame["group"])
    for cell in frame.itertuples():
        own = {(r.synthesis_seed, run.seed): run.top1 for r in members[cell.group] for run in r.runs if run.top1}
        assert own == cell.samples
    assert sum(len(found) for found in members.values()) == len(records)


def test_ranks_are_ranges_and_ties_share_them():
    found = {row.method: row for row in rows(entries(toy()), {}) if row.dataset == "digits" and row.status == "ok"}
    table = compare(results_frame([each for each in toy() if each.dataset == "digits"]), "ranks")
    wanted = {row.method: (row.first, row.last) for row in table.itertuples()}
    assert {name: (row.first, row.last) for name, row in found.items()} == wanted
    assert found["random"].first <= 3 and found["random"].last == 4 == found["herding"].last
    assert forms.rank(found["random"]) == f"{found['random'].first}–4"
    assert found["dm"].best and not found["random"].best


def test_a_row_alone_in_its_place_is_first_of_one_and_not_bold():
    (row,) = rows(entries([record()]), {})
    assert (row.first, row.last, row.ranked, row.best) == (1, 1, 1, False)


def test_versions_of_a_protocol_stand_apart_and_two_digests_are_refused():
    second = {"protocol": "hard-v2", "protocol_version": 2, "protocol_digest": digest("hard 2")}
    found = rows(entries([record("dm"), record("random"), record("random", **second)]), {})
    assert {(row.protocol, row.method, row.ranked) for row in found} == {
        ("hard-v1", "dm", 2),
        ("hard-v1", "random", 2),
        ("hard-v2", "random", 1),
    }
    with pytest.raises(UsageError, match="two digests"):
        rows(entries([record("dm"), record("random", protocol_digest=digest("other"))]), {})


def test_claims_are_not_pooled_and_not_ranked_until_verified():
    own, claim = record("dm", values=(0.5, 0.51)), record("dm", values=(0.9, 0.91))
    other = record("random", values=(0.4, 0.41))
    found = rows([Entry(own), Entry(other), Entry(claim, "claimed")], {})
    assert {(row.method, row.standing, row.ranked) for row in found} == {
        ("dm", "measured", 2),
        ("random", "measured", 2),
        ("dm", "claimed", None),
    }
    assert {round(row.top1, 9) for row in found if row.method == "dm"} == {0.505, 0.905}
    checked = rows([Entry(own), Entry(other), Entry(claim, "verified")], {})
    assert {row.ranked for row in checked} == {2}  # a claim that holds is no further contender
    assert {(row.first, row.last) for row in checked if row.method == "dm"} == {(1, 1)}
    elsewhere = record("dm", values=(0.9, 0.91), run={"build": "another"})
    checked = rows([Entry(own), Entry(other), Entry(elsewhere, "verified")], {})
    assert {row.ranked for row in checked} == {2}  # computed by another build of torch: the same contender
    apart = rows([Entry(other), Entry(claim, "verified")], {})
    assert {(row.method, row.ranked) for row in apart} == {("dm", 2), ("random", 2)}
    ids = {entry.id for entry in [Entry(own), Entry(claim, "claimed"), Entry(claim, "verified")]}
    assert len(ids) == 3


def test_a_record_with_a_submission_is_a_claim_until_what_was_measured_bears_it_out():
    ours = record(values=(0.5, 0.51, 0.52))
    plain = ours.model_dump(mode="json", by_alias=True)
    (name,) = plain["synsets"]
    file = {"kind": "set", "size": 9, "sha256": "0a" * 32, "address": "https://example.org/x"}
    words = {"name": "mine", "authors": ["A", "B"], "licence": "CC-BY-4.0"}

    def claim(add):
        runs = [run | {"top1": run["top1"] + add} for run in plain["runs"]]
        value = plain | {"submission": {**words, "files": {name: file}}, "runs": runs}
        return Record.model_validate_json(json.dumps(value))

    true, false = claim(0.0), claim(0.2)
    assert _entry(ours, [ours]).standing == "measured"
    assert _entry(true, []).standing == "claimed"
    assert _entry(true, [ours]).standing == "verified"
    assert _entry(false, [ours]).standing == "claimed"
    files = {f"files {name[:12]} {key}": str(value) for key, value in file.items()}
    assert _entry(true, [ours]).about == {**words, "authors": "A, B"} | files


def test_parts_of_a_record_in_two_folders_are_one_entry(tmp_path):
    for place, values in (("a", (0.5,)), ("b", (0.5, 0.6))):
        RecordStore(tmp_path / place).add(record(values=values))
    (entry,) = read([tmp_path / "a", tmp_path / "b"])
    assert [run.top1 for run in entry.record.runs] == [0.5, 0.6]
    assert united([entry, entry]) == [entry]
    with pytest.raises(UsageError, match="no records in"):
        read([tmp_path / "none"])


def test_submitted_records_beside_the_measured_ones_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv("DDBENCH_RESULTS", str(tmp_path / "measured"))
    RecordStore(tmp_path / "measured").add(record("dm"))
    assert len(read()) == 1
    RecordStore(tmp_path / "submitted").add(record("random"))
    assert {entry.record.method for entry in read()} == {"dm", "random"}


# --- reported figures


def test_reported_figures_stand_beside_the_cell_that_they_are_of_and_no_other():
    papers = reported.papers()
    found = rows(entries(toy()), papers)
    full = next(row for row in found if row.dataset == "cifar10" and row.standing == "measured")
    wanted = reported.find(method="dm", dataset="cifar10", budget=full.figures[0].budget, protocol="own")
    assert set(full.figures) == {figure for figure in wanted if figure.network == "convnet-d3" and not figure.recipe}
    assert full.figures and forms.reported(full).split(" / ")[0] == full.figures[0].words()
    assert all(not row.figures for row in found if row.standing == "measured" and row is not full)
    shown = [figure for row in found for figure in row.figures]
    every = [figure for key, paper in papers.items() for figure in reported.figures_of(key, paper)]
    assert sorted(map(str, shown)) == sorted(map(str, every))  # each once: beside a cell, or in a row of its own


def test_another_recipe_student_or_protocol_has_no_figure_beside_it():
    shipped = {"protocol": "shipped-v1", "protocol_digest": digest("shipped"), "dataset": "cifar10"}
    for changes in (
        {"name": "other"},
        {"student_network": "resnet18"},
        {"protocol": "hard-v1"},
        {"borrowed": "mtt", "lender": digest("mtt")},
    ):
        (row,) = [r for r in rows(entries([record("dm", 10, **(shipped | changes))]), {}) if r.standing == "measured"]
        plain = next(iter(rows(entries([record("dm", 10, **(shipped | changes))]), reported.papers())))
        assert row.figures == plain.figures == (), changes
    assert default_recipe(reported.find(method="dm", dataset="cifar10", protocol="own")[0]) == "paper"


def test_a_part_of_cifar10_is_never_called_cifar10(tmp_path):
    folder = site(tmp_path, entries([each for each in toy() if "jpeg" in each.dataset]), reported={})
    text = text_of(folder / "index.html")
    assert "cifar10-jpeg@6c6a762a" in text
    assert not re.search(r"cifar-?10(?!-jpeg)", text, re.IGNORECASE)
    (row,) = board(folder)
    assert row["Data set"] == "cifar10-jpeg@6c6a762a" and row["Standing"] == "measured reduced"


# --- every number traces to a record


def test_every_number_on_the_front_page_traces_to_its_records(tmp_path):
    folder = site(tmp_path, entries(toy()))
    checked = 0
    for row in board(folder):
        if row["about"]["data-standing"].startswith("reported"):
            continue
        ids = [link.partition("#")[2] for link in row["links"] if link.startswith("record.html#")]
        data = [script(folder / "records" / f"{name}.js") for name in ids]
        runs = [[run for run in each["record"]["runs"] if run["status"] == "ok"] for each in data]
        if not any(runs):
            assert row["Top-1 %"] in ("failed", "n/a")
            continue
        means = [np.mean([run["top1"] for run in part]) for part in runs]
        assert row["Top-1 %"].rstrip("†").split(" ±")[0] == f"{100 * np.mean(means):.1f}"
        values = means if len(means) > 1 else [run["top1"] for run in runs[0]]
        low, high = scipy.stats.t.interval(0.95, len(values) - 1, np.mean(values), scipy.stats.sem(values))
        assert row["Top-1 %"].rstrip("†").split(" ±")[1] == f"{50 * (high - low):.1f}"
        assert int(row["Runs"].split()[0]) == sum(map(len, runs))
        sizes = [facts["bytes"] for each in data for facts in each["record"]["synsets"].values()]
        assert row["Bytes"] == f"{np.mean([size['images_encoded'] + size['external'] for size in sizes]):.0f} B"
        checked += 1
    assert checked == 6
    assert {row["Standing"] for row in board(folder)} >= {"measured", "measured reduced", "reported"}


def test_a_record_has_what_is_needed_to_doubt_it(tmp_path):
    records = toy()
    folder = site(tmp_path, entries(records, code="https://example.org"), reported={})
    for each in records:
        data = script(folder / "records" / f"{each.key_hash()}.js")
        assert Record.model_validate_json(json.dumps(data["record"])) == each
        assert data["key"] == each.key_hash() and data["about"] == {"code": "https://example.org"}
        assert data["reproduce"] and data["reproduce"][0].startswith(f"ddbench run {each.method} ")


def test_every_reported_number_has_its_source_on_the_method_page(tmp_path):
    folder = site(tmp_path, entries(toy()))
    page = " ".join(" ".join(Page(text_of(folder / "methods" / "dm.html")).words).split())
    figures = reported.find(method="dm")
    assert len(figures) > 10
    for figure in figures:
        assert figure.words() in page and " ".join(figure.read_in.split()) in page


def test_superseded_records_leave_the_table_and_keep_their_page(tmp_path):
    old = record("dm", values=(0.5, 0.51), name="old")
    new = record("dm", values=(0.6, 0.61), name="new", supersedes=old.key_hash())
    folder = site(tmp_path, entries([old, new]), reported={})
    assert [row["Top-1 %"].split()[0] for row in board(folder)] == ["60.5"]
    assert script(folder / "records" / f"{old.key_hash()}.js")["superseded_by"] == [new.key_hash()]
    assert script(folder / "records" / f"{new.key_hash()}.js")["supersedes"] == [old.key_hash()]


# --- methods


def test_a_method_page_has_algorithm_differences_and_recipes(tmp_path):
    folder = site(tmp_path, entries(toy()))
    page = Page(text_of(folder / "methods" / "dm.html"))
    words = " ".join(" ".join(page.words).split())
    method = find_method("dm")
    assert "psi: a fresh random network without its classifier" in words and "Zhao and Bilen 2023" in words
    assert all(" ".join(each.split()) in words for each in method.differences)
    assert "not established: why users find 55 to 57 % at IPC 50" in words and "paper-reduced" in words
    assert any(row["links"] and "record.html#" in row["links"][-1] for row in page.rows)
    outside = next(figure.method for figure in reported.find() if figure.outside)
    assert "is not part of the suite" in text_of(folder / "methods" / f"{file_name(outside)}.html")


def test_steps_of_a_docstring():
    text = "DM: a paper,\narXiv 1.\n\n1. First\n   goes on.\n   a. Inner\n      goes on too.\n2. Second.\n\nLast words."
    found = [(step.level, step.mark, step.text) for step in forms.steps(text)]
    assert found == [
        (0, "", "DM: a paper, arXiv 1."),
        (0, "1.", "First goes on."),
        (1, "a.", "Inner goes on too."),
        (0, "2.", "Second."),
        (0, "", "Last words."),
    ]
    assert forms.prose("a `b < c` & d") == "a <code>b &lt; c</code> &amp; d"
    assert forms.prose("one ` alone <") == "one ` alone &lt;"


def test_curves_are_drawn_where_the_numbers_say():
    steps, means = [0, 500, 1000], [0.30, 0.50, 0.54]
    curve = pd.DataFrame({"step": steps, "top1": means, "ci_low": [0.28, 0.48, 0.53], "ci_high": [0.32, 0.52, 0.55]})
    drawing = chart([("dm", curve)])
    bottom, top = (float(drawing.up[place][1]) / 100 for place in (0, -1))
    assert bottom <= 0.28 and top >= 0.55 and [text for _, text in drawing.across][::2] == ["0", "500", "1,000"]
    points = [tuple(map(float, point.split(","))) for point in drawing.lines[0].points.split()]
    for (x, y), step, mean in zip(points, steps, means, strict=True):
        assert x == pytest.approx(LEFT + (WIDTH - LEFT - RIGHT) * step / 1000, abs=0.06)
        assert y == pytest.approx(
            HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (mean - bottom) / (top - bottom), abs=0.06
        )
    assert len(drawing.lines[0].band.split()) == 6
    alone = chart([("one", pd.DataFrame({"step": [0], "top1": [0.5], "ci_low": [np.nan], "ci_high": [np.nan]}))])
    assert alone.lines[0].band == ""


def test_intervals_are_clipped_to_the_page():
    assert whisker(-0.1, 0.05, 0.2) == (0.0, 5.0, 20.0)
    assert whisker(None, 0.5, None) == (50.0, 50.0, 50.0) and whisker(None, None, None) is None


def test_curves_of_records_are_on_the_method_page(tmp_path):
    plain = record("dm").model_dump(by_alias=True)
    for run in plain["runs"]:
        run["snapshots"] = [{"step": 0, "top1": 0.2}, {"step": 40, "top1": run["top1"]}]
    folder = site(tmp_path, entries([Record.model_validate(plain)]), reported={})
    page = Page(text_of(folder / "methods" / "dm.html"))
    assert "curves" in page.ids and any(tag == "polyline" for tag, _ in page.tags)
    assert "curves" not in Page(text_of(folder / "methods" / "mtt.html")).ids


def test_pictures_are_drawn_of_sets_that_the_cache_has(tmp_path):
    from PIL import Image

    from ddbench.synset.synset import load

    out = tmp_path / "set.safetensors"
    words = ["distill", "random", "--dataset", "digits", "--ipc", "1", "--recipe", "generic", "--out", str(out)]
    assert CliRunner().invoke(app, words).exit_code == 0
    known = load(out).hash
    plain = record("random").model_dump(by_alias=True)
    plain["synsets"] = {known: next(iter(plain["synsets"].values()))}
    plain["runs"] = [run | {"synset": known} for run in plain["runs"]]
    folder = site(tmp_path, entries([Record.model_validate(plain), record("dm")]), reported={}, pictures=True)
    (picture,) = (folder / "pictures").iterdir()
    with Image.open(picture) as image:
        assert image.size[0] > 100
    page = Page(text_of(folder / "methods" / "random.html"))
    shown = [attributes for tag, attributes in page.tags if tag == "img"]
    assert [each["src"] for each in shown] == [f"../pictures/{picture.name}"]
    assert shown[0]["alt"] == "Images of random on digits, IPC 1: a row per class"
    site(tmp_path, entries([record("dm")]), reported={})
    assert not list((folder / "pictures").iterdir())  # a later build leaves nothing behind


# --- text from strangers


def nasty():
    """A record with markup wherever a record takes text."""
    plain = record(NASTY, name=f"{NASTY}-reduced", dataset='"><img src=x onerror=alert(2)>').model_dump(by_alias=True)
    plain["note"] = "</script><script>alert(3)</script>\u2028\u2029 <!-- & -->"
    plain["student_network"] = plain["distill_network"] = "{{ 7 * 7 }}<b>"
    plain["runs"] = [run | {"wandb": "javascript:alert(4)", "versions": {"<i>": "<u>"}} for run in plain["runs"]]
    return Record.model_validate(plain)


def test_a_method_named_script_stays_text(tmp_path):
    entry = Entry(nasty(), "claimed", {"code": "javascript:alert(5)", "authors": "<b>me</b>"})
    folder = site(tmp_path, [entry, *entries(toy())])
    for path in folder.rglob("*.html"):
        page = Page(text_of(path))
        sources = [attributes.get("src", "") for tag, attributes in page.tags if tag == "script"]
        assert sources and all(re.fullmatch(r"(\.\./)?assets/[a-z]+\.js", source) for source in sources), path
        assert not [tag for tag, _ in page.tags if tag in ("img", "i", "u")]
        assert not [name for _, attributes in page.tags for name in attributes if name.startswith(("on", "style"))]
    row = next(row for row in board(folder) if row["about"]["data-standing"] == "claimed reduced")
    assert row["Method"].startswith(NASTY) and row["Data set"] == '"><img src=x onerror=alert(2)>'
    assert "{{ 7 * 7 }}<b>" in row["Student"]
    page = Page(text_of(folder / row["links"][0]))
    assert any(NASTY in words for words in page.words)


def test_script_files_hold_no_tag_and_no_line_separator(tmp_path):
    entry = Entry(nasty(), "claimed")
    folder = site(tmp_path, [entry], reported={})
    text = text_of(folder / "records" / f"{entry.id}.js")
    assert not set("<>&\u2028\u2029") & set(text)
    assert Record.model_validate_json(json.dumps(script(folder / "records" / f"{entry.id}.js")["record"])) == nasty()
    value = {"a": "</script>\u2028\u2029<!--&", "b": [1, 0.1, None, True, "é\\u003c"]}
    assert json.loads(forms.script_json(value)) == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        forms.script_json(float("nan"))


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"name": ["a"], "hyper": [1]},
        {"name": "generic+set", "hyper": [1, 2]},
        {"name": "paper+set", "hyper": {"iterations": {"a": None}}},
        {"name": "x\n--flag", "hyper": "text", "labels": {"encoding": [], "topk": {}}},
        {"name": None, "labels": 3},
    ],
)
def test_a_recipe_of_any_form_is_shown(tmp_path, recipe):
    own = record("dm", recipe=recipe, recipe_hash=digest(recipe))
    folder = site(tmp_path, entries([own]), reported={})
    data = script(folder / "records" / f"{own.key_hash()}.js")
    assert data["record"]["recipe"] == recipe and len(data["reproduce"]) in (1, 3)
    assert len(board(folder)) == 1


@pytest.mark.parametrize("name", ["../../x", "..", "/etc/passwd", "CON", "con", "a" * 200, "a/b", "A", "a", "😀", "."])
def test_names_stay_in_their_folder(tmp_path, name):
    made = file_name(name)
    assert re.fullmatch(r"[a-z0-9+-][a-z0-9.+_-]{0,79}", made) and ".." not in made.split("_")[0][:2]
    folder = site(tmp_path, entries([record(name)]), reported={})
    assert (folder / "methods" / f"{made}.html").is_file()
    assert {path.name for path in tmp_path.iterdir()} <= {"site", "home"}


def test_names_that_differ_have_files_that_differ():
    names = ["A", "a", "a b", "a-b", "a/b", "é", "è", "con", "con.x", "sre2l++", "sre2l"]
    assert len({file_name(name) for name in names}) == len(names)
    assert file_name("sre2l++") == "sre2l++"


def test_building_opens_no_connection(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a connection")

    monkeypatch.setattr(socket, "socket", refuse)
    site(tmp_path, [Entry(nasty(), "claimed", {"code": "https://example.org/x"})], pictures=True)


# --- the site as a whole


def test_links_are_whole_and_only_of_the_site_or_arxiv(tmp_path):
    folder = site(tmp_path, [*entries(toy()), Entry(nasty(), "claimed")])
    pages = {path: Page(text_of(path)) for path in folder.rglob("*.html")}
    assert len(pages) > 30
    for path in pages:
        found = addresses(text_of(path))
        assert found
        for address in found:
            if address.startswith("https://arxiv.org/abs/"):
                continue
            file, _, anchor = address.partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target.is_relative_to(folder.resolve()) and target.is_file(), (path, address)
            if target.name == "record.html" and file:
                assert not anchor or (folder / "records" / f"{anchor}.js").is_file(), address
            elif anchor:
                assert anchor in pages[target.parent / target.name if file else path].ids, (path, address)


def test_pages_can_be_read_by_a_screen_reader(tmp_path):
    folder = site(tmp_path, entries(toy()))
    for path in folder.rglob("*.html"):
        page = Page(text_of(path))
        tags = [tag for tag, _ in page.tags]
        assert tags.count("h1") == 1 and tags.count("main") == 1 and page.tags[0] == ("html", {"lang": "en"})
        assert ("a", {"class": "skip", "href": "#main"}) in page.tags and "main" in page.ids
        ids = re.findall(r'\bid="([^"]*)"', text_of(path))
        assert len(ids) == len(set(ids)), path
        for tag, attributes in page.tags:
            assert tag != "th" or attributes.get("scope") in ("col", "row"), path
            assert tag != "img" or attributes.get("alt")
            for name in ("aria-labelledby",):
                assert attributes.get(name) is None or attributes[name] in ids
    index = Page(text_of(folder / "index.html"))
    assert [tag for tag, _ in index.tags].count("caption") == 1
    assert text_of(folder / "index.html").count("<label for=") == 6


def test_a_site_is_built_again_over_itself_and_over_nothing_else(tmp_path):
    folder = site(tmp_path, entries(toy()))
    before = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    site(tmp_path, list(reversed(entries(toy()))))
    again = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert again.keys() == before.keys() and again == before  # the same records give the same site, in any order
    (folder / "mine.txt").write_text("kept")
    site(tmp_path, entries(toy()[:1]))
    assert len(list((folder / "records").iterdir())) == 1 and (folder / "mine.txt").read_text() == "kept"
    other = tmp_path / "other"
    other.mkdir()
    (other / "index.html").write_text("somebody's")
    with pytest.raises(UsageError, match="holds files that are no site"):
        build(entries(toy()), other)
    assert (other / "index.html").read_text() == "somebody's" and not (other / MARK).exists()
    with pytest.raises(UsageError, match="a folder for the site"):
        build(entries(toy()), other / "index.html")


def test_command_builds_from_records(tmp_path):
    for each in toy():
        RecordStore(tmp_path / "records").add(each)
    words = ["leaderboard", "build", "--results", tmp_path / "records", "--out", tmp_path / "site", "--no-pictures"]
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0 and done.stdout == f"{tmp_path / 'site' / 'index.html'}\n", done.stderr
    assert len(list((tmp_path / "site" / "records").iterdir())) == len(toy())
    pivoted = pivot(results_frame(RecordStore(tmp_path / "records")))
    shown = {cell.text for _, line in pivoted.rows for cell in line}
    printed = {row["Top-1 %"] for row in board(tmp_path / "site") if row["Standing"] != "reported"}
    assert {text.rstrip("†") for text in printed} <= {text.rstrip("†") for text in shown}
    empty = CliRunner().invoke(app, ["leaderboard", "build", "--results", str(tmp_path / "none")])
    assert empty.exit_code == 2 and empty.stderr.startswith("ddbench: error: no records in")
    assert "leaderboard" in CliRunner().invoke(app, ["--help"]).stdout


def test_server_gives_files_of_the_site_to_this_machine_and_nothing_else(tmp_path):
    folder = site(tmp_path, entries(toy()[:1]), reported={})
    (tmp_path / "secret.txt").write_text("secret")
    with server_for(folder, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host, port = server.server_address[:2]
        assert host == "127.0.0.1"
        with urllib.request.urlopen(f"http://{host}:{port}/") as answer:
            assert answer.read() == (folder / "index.html").read_bytes()
        for path in ("records/", "../secret.txt", "%2e%2e/secret.txt", "none.html"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"http://{host}:{port}/{path}")
            assert refused.value.code == 404
            refused.value.close()
        with pytest.raises(UsageError, match=f"--port {port}"):
            server_for(folder, port)
        server.shutdown()
