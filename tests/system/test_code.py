"""Code behind numbers: an edited method is run again, runs of two codes never share a mean, old records stay valid."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import ddbench
from ddbench import plugins
from ddbench.budget import Budget
from ddbench.cli.app import app
from ddbench.data.registry import load_dataset
from ddbench.distillation.method import find_method, method_names
from ddbench.distillation.recipes import resolve
from ddbench.errors import UsageError
from ddbench.evaluation.from_tensors import from_tensors
from ddbench.jobs.job import DataName, DistillJob
from ddbench.jobs.sweep import Sweep
from ddbench.records.record import Record, codes_of
from ddbench.records.store import RecordStore, merge, read_record
from ddbench.report.frame import pooled, results_frame
from ddbench.report.tables import render
from ddbench.synset.synset import load, save
from ddbench.system import code
from ddbench.training.compute import Compute

ROOT = Path(__file__).parents[2]
PAGE = '''"""A method."""

import torch

from ddbench.distillation.method import Hyper, Method


class Fields(Hyper):
    """None."""


def distill(task, hyper):
    """Real images of every class."""
    from own.picking import first

    space = task.space("normalised")
    images, classes = task.tensors(space)
    where = torch.cat([first(classes == each, task.ipc) for each in classes.unique()])
    return task.synset(space=space, classes=classes[where].cpu(), images=images[where])


METHOD = Method(name="own", hyper=Fields, distill=distill)
'''
PICKING = """def first(chosen, count):
    return chosen.nonzero()[:count, 0]
"""


class Plugin:
    """A package with a method that a test edits, as a person would between two calls of the command."""

    def __init__(self, root, monkeypatch):
        self.root, self.folder = root, root / "own"
        self.folder.mkdir(parents=True)
        about = root / "own-2.5.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 2.5\n")
        (about / "entry_points.txt").write_text("[ddbench.methods]\nown = own.page:METHOD\nother = own.other:METHOD\n")
        (self.folder / "__init__.py").write_text("")
        self.write("page.py", PAGE)
        self.write("picking.py", PICKING)
        self.write("other.py", PAGE.replace('"own"', '"other"'))
        monkeypatch.syspath_prepend(root)
        self.forget()

    def write(self, name, text):
        (self.folder / name).write_text(text)
        self.forget()

    def edit(self, name, old, new):
        text = (self.folder / name).read_text()
        assert old in text
        self.write(name, text.replace(old, new))

    def forget(self):
        for each in (plugins._declared, plugins.find):
            each.cache_clear()
        code.forget()
        importlib.invalidate_caches()
        for name in [name for name in sys.modules if name.split(".")[0] == "own"]:
            del sys.modules[name]


@pytest.fixture
def own(tmp_path, monkeypatch, toys):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # an edit within a second must not meet compiled code
    plugin = Plugin(tmp_path / "plugin", monkeypatch)
    yield plugin
    monkeypatch.undo()
    plugin.forget()


RUN = ("run", "own", "--ipc", "1", "--recipe", "generic", "--protocol", "toy-hard-v1")


def call(*words, exit_code=0):
    done = CliRunner().invoke(app, words)
    assert done.exit_code == exit_code, done.output
    return done.output


def run(*words):
    return call(*RUN, *words)


def spoil(own):
    own.edit("page.py", "images=images[where]", "images=0 * images[where]")


def the_record():
    (path,) = RecordStore(ddbench.settings.results_dir()).paths()
    return read_record(path)


def test_edited_code_is_run_again(own):
    assert "0 runs reused, 5 made" in run()
    before = the_record()
    assert "5 runs reused, 0 made" in run()
    spoil(own)
    again = run()
    assert "the code of own changed since these 5 runs; running them again" in again and "5 made" in again
    runs = the_record().by_setting().values()
    assert [len(each) for each in runs] == [5, 5] and all(run in the_record().runs for run in before.runs)
    assert len({run.code for run in the_record().runs}) == len({run.synset for run in the_record().runs}) == 2
    assert "5 runs reused, 0 made" in run() and "running" not in run()


def test_seeds_added_after_an_edit_are_another_mean(own):
    run("--seeds", "2")
    spoil(own)
    assert "the code of own changed since these 2 runs" in run("--seeds", "3")
    (row,) = results_frame([the_record()]).to_dict("records")
    assert row["n"] == 3 and row["code"] == code.of_method("own")[:12] and not row["former"]
    assert sorted(results_frame([the_record()], former=True)["n"]) == [2, 3]


def test_a_table_leaves_out_former_code_and_says_so(own):
    run("--seeds", "2")
    old = code.of_method("own")
    spoil(own)
    run("--seeds", "2")
    line = "Left out: 1 row of former code, changed since (own); --former shows them."
    assert line in call("table") and "code" not in call("table").replace(line, "")
    shown = call("table", "--former")
    assert "Left out" not in shown and f"own (code {old[:8]})" in shown
    assert f"own (code {code.of_method('own')[:8]})" in shown
    assert line in CliRunner().invoke(app, ["table", "--format", "csv"]).stderr
    for command in ("compare", "scores"):
        assert line in CliRunner().invoke(app, [command]).output


def test_a_table_of_nothing_but_former_code_says_why_it_is_empty(own):
    run("--seeds", "1,")
    spoil(own)
    done = CliRunner().invoke(app, ["table"])
    assert done.exit_code == 2 and "Left out: 1 row" in done.output + str(done.exception)


def test_a_dry_run_says_what_changed(own):
    run("--seeds", "1,")
    spoil(own)
    assert "the code of own changed since this run; running it again" in run("--seeds", "1,", "--dry-run")
    assert len(the_record().runs) == 1


def test_a_comment_changes_nothing(own):
    run("--seeds", "1,")
    own.edit("page.py", '"""Real images of every class."""', '"""Other words."""  # and a comment')
    own.edit("picking.py", "def first", "# a comment\n\n\ndef first")
    assert "1 runs reused, 0 made" in run("--seeds", "1,")


def test_a_module_that_is_imported_in_a_function_counts_and_another_method_does_not(own):
    before = code.of_method("own")
    own.edit("other.py", "images=images[where]", "images=0 * images[where]")
    assert code.of_method("own") == before != code.of_method("other")
    own.edit("picking.py", "[:count, 0]", "[-count:, 0]")
    assert code.of_method("own") != before
    assert "own" not in sys.modules


def test_failures_of_former_code_are_run_again(own):
    good = (own.folder / "page.py").read_text()
    own.edit("page.py", "    space =", "    raise RuntimeError('broken')\n    space =")
    call(*RUN, exit_code=1)
    own.write("page.py", good)
    assert "5 made" in run() and results_frame([the_record()])["status"].tolist() == ["ok"]


def test_again_replaces_what_is_there(own):
    run("--seeds", "2")
    before = {run.seed: run for run in the_record().runs}
    path = next(Path(ddbench.settings.cache_dir(), "synsets").glob("*.safetensors"))
    made = path.stat().st_mtime_ns
    assert "0 runs reused, 2 made" in run("--seeds", "2", "--again") and path.stat().st_mtime_ns > made
    after = {run.seed: run for run in the_record().runs}
    assert after.keys() == before.keys() and all(after[seed].top1 == before[seed].top1 for seed in after)
    assert after != before  # their seconds, at least
    plan = run("--seeds", "3", "--again", "--dry-run")
    assert "set is to be made, again" in plan and "3 of 3 trainings missing" in plan


def test_again_replaces_runs_on_another_set(own):
    run("--seeds", "2")
    stored = the_record()
    other = stored.runs[0].model_copy(update={"synset": "a" * 64})
    facts = {"a" * 64: next(iter(stored.synsets.values()))}
    new = stored.model_copy(update={"runs": [other], "synsets": facts})
    assert len(merge(stored, new).runs) == 3 and len(merge(stored, new, again=True).runs) == 2
    failed = other.model_copy(
        update={"synset": None, "status": "failed", "reason": "?", "top1": None, "per_class": None}
    )
    assert len(merge(stored, stored.model_copy(update={"runs": [failed]}), again=True).runs) == 3


def test_a_set_says_who_made_it(own):
    subprocess.run(["git", "init", "-q", own.root], check=True)
    words = ["git", "-C", str(own.root), "-c", "user.name=me", "-c", "user.email=me@here"]
    subprocess.run([*words, "add", "own"], check=True)
    subprocess.run([*words, "commit", "-q", "-m", "own"], check=True)
    run("--seeds", "1,")
    (facts,) = the_record().synsets.values()
    told = {key: value for key, value in facts.environment.items() if key.startswith("plugin")}
    head = subprocess.run([*words, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert told == {"plugin": "own", "plugin_version": "2.5", "plugin_commit": head, "plugin_dirty": False}


def test_our_own_methods_are_no_plugin(toys):
    from ddbench.system.environment import plugin

    assert plugin(code.METHODS, "dm") == {} and plugin(code.METHODS, "toy")["plugin"] == "toybox"


def toy_grid(*seeds):
    return Sweep(["toy"], [DataName("digits")], [Budget(ipc=1)], ["toy-hard-v1"], recipe="generic", seeds=seeds)


@pytest.mark.parametrize("name", ["TRAINING", "SYNTHESIS"])
def test_runs_of_two_versions_of_the_core_are_two_means(name, toys, monkeypatch):
    ddbench.sweep(toy_grid(0))
    monkeypatch.setattr(code, name, 2)
    report = ddbench.sweep(toy_grid(0, 1))
    assert (
        report.changed == [f"the suite's {name.lower()} changed since this run; running it again"] and report.done == 2
    )
    rows = results_frame([the_record()], former=True)
    assert sorted(rows["n"]) == [1, 2] and list(results_frame([the_record()])["n"]) == [2]
    assert f"{name.lower()} 2" in render(rows)
    assert toys.count("distill") == (2 if name == "SYNTHESIS" else 1)
    monkeypatch.setattr(code, name, 3)
    with pytest.raises(UsageError, match="2 rows"):
        results_frame([the_record()])


def test_an_imported_set_outlives_a_version_of_synthesis(toys, monkeypatch):
    data = load_dataset("digits")
    images, labels = torch.zeros(10, data.channels, data.side, data.side), torch.arange(10)
    record = ddbench.evaluate(images, labels, dataset="digits", protocol="toy-hard-v1", seeds=1)
    monkeypatch.setattr(code, "SYNTHESIS", 2)
    assert record.runs[0].code is None and len(results_frame([record])) == 1
    monkeypatch.setattr(code, "TRAINING", 2)
    assert pooled([record])[0].empty


def told(record, **changes):
    return record.model_copy(update={"runs": [run.model_copy(update=changes) for run in record.runs]})


def test_unknown_code_counts_as_that_of_the_same_set_only(own):
    run("--seeds", "2")
    new = the_record()
    old = told(new.model_copy(update={"runs": [new.runs[0].model_copy(update={"seed": 7})]}), code=None)
    both = merge(old, new)
    assert list(results_frame([both])["n"]) == [3] and len(both.by_setting()) == 1
    other = told(old, synset="a" * 64).model_copy(update={"synsets": {"a" * 64: next(iter(old.synsets.values()))}})
    assert sorted(results_frame([merge(other, new)])["n"]) == [1, 2]
    assert merge(told(new, code=None), new) == told(new, code=None)  # the same runs, though they do not say so
    assert codes_of(told(new, code=None).runs) == {}


def test_runs_of_unknown_code_are_there(own):
    run("--seeds", "2")
    store = RecordStore(ddbench.settings.results_dir())
    (path,) = store.paths()
    path.write_text(told(the_record(), code=None).to_json())
    spoil(own)
    assert "2 runs reused, 0 made" in run("--seeds", "2")


def test_a_set_of_former_code_is_scored_as_such(own, tmp_path):
    call("distill", "own", "--ipc", "1", "--recipe", "generic", "--out", str(tmp_path / "own.safetensors"))
    old = code.of_method("own")
    spoil(own)
    record = ddbench.evaluate(tmp_path / "own.safetensors", protocol="toy-hard-v1", seeds=1)
    assert load(tmp_path / "own.safetensors").provenance.code == record.runs[0].code == old != code.of_method("own")
    assert pooled([record])[0].empty and len(results_frame([record], former=True)) == 1


@pytest.mark.parametrize(("field", "value"), [("code", "mine"), ("synthesis", 0)])
def test_a_stranger_s_word_on_the_code_is_checked(field, value, tmp_path):
    data = load_dataset("digits")
    images, labels = torch.zeros(10, data.channels, data.side, data.side), torch.arange(10)
    made = from_tensors(images, labels, data, name="mine").with_provenance(**{field: value})
    save(made, tmp_path / "set.safetensors")
    with pytest.raises(UsageError, match=field):
        load(tmp_path / "set.safetensors")


def key(name):
    method, data = find_method(name), load_dataset("digits")
    budget = Budget() if method.budgets == ("all",) else Budget(ipc=10)
    return DistillJob.of(DataName("digits"), resolve(method, data, budget, recipe="generic"), 0, Compute()).key


def edited_engine(monkeypatch, tmp_path, name, more):
    """Our methods as if an engine's file had more lines."""
    real, copy = code._file, tmp_path / f"{name}.py"
    module = f"{code.METHODS}.engines.{name}"
    copy.write_text(real(module, code.METHODS).read_text(encoding="utf-8") + more, encoding="utf-8")
    monkeypatch.setattr(code, "_file", lambda each, package: copy if each == module else real(each, package))
    code.forget()


def test_an_engine_is_in_the_keys_of_those_that_import_it(monkeypatch, tmp_path):
    ours = [name for name in method_names() if plugins.declared(code.METHODS, name).module.startswith("ddbench.")]
    before = {name: code.of_method(name) for name in ours}
    edited_engine(monkeypatch, tmp_path, "matching.attention", "\n# a comment\n")
    assert {name: code.of_method(name) for name in ours} == before and len(before) == 23
    monkeypatch.undo()
    edited_engine(monkeypatch, tmp_path, "matching.attention", "\nMORE = 1\n")
    assert {name for name in ours if code.of_method(name) != before[name]} == {"datadam"}
    monkeypatch.undo()
    code.forget()


def test_the_key_of_a_set_knows_the_code(monkeypatch):
    before = key("random")
    monkeypatch.setattr(code, "of_method", lambda name: "edited")
    assert key("random") != before


def test_old_records_keep_their_text():
    texts = [path.read_text(encoding="utf-8") for path in RecordStore(ROOT / "results" / "measured").paths()]
    assert len(texts) > 100 and not any('"synthesis":' in text or '"training":' in text for text in texts)
    for text in texts:
        now = Record.from_json(text, "record").to_json()
        assert now == text or now.replace('  "lender": null,\n', "") == text  # the oldest ten have no lender


def test_syntax_is_compared_and_not_text(tmp_path):
    def told(text):
        path = tmp_path / "module.py"
        path.write_text(text)
        code.forget()
        return code.digest_of({"module": path})

    one = told('"""Words."""\nimport a\n\ndef f(x):\n    """More."""\n    return x + 1\n')
    assert one == told("import a  # why\ndef f(x): return (x + 1)\n")
    assert len({one, told("import a\ndef f(x): return x + 2\n"), told("import a\ndef f(x): return x + 1.0\n")}) == 3
    assert told("f(None)\n") != told("f()\n") and told("no python (") != told("no python ((")


@pytest.mark.parametrize(
    "line",
    [
        "from . import helper",
        "from .helper import name",
        "from pack.helper import name",
        "import pack.helper",
        "def f():\n    import pack.helper as h",
        "from .deeper.inner import up",
    ],
)
def test_all_kinds_of_imports_are_followed(line, tmp_path, monkeypatch):
    folder = tmp_path / "pack"
    (folder / "deeper").mkdir(parents=True)
    for name in ("__init__", "helper", "deeper/__init__", "apart"):
        (folder / f"{name}.py").write_text("")
    (folder / "deeper" / "inner.py").write_text("from .. import helper as up")
    (folder / "main.py").write_text(f"import json\nimport absent.module\n{line}\n")
    monkeypatch.syspath_prepend(tmp_path)
    code.forget()
    found = code.closure(("pack.main",), "pack")
    assert {"pack", "pack.main", "pack.helper"} <= found.keys() and "pack.apart" not in found
    assert "pack" not in sys.modules


def test_code_without_source_is_unknown(monkeypatch):
    from importlib.metadata import EntryPoint

    points = {name: EntryPoint(name, f"{name}:METHOD", code.METHODS) for name in ("sys", "no_such", "__main__")}
    monkeypatch.setattr(plugins, "declared", lambda group, name: points.get(name))
    code.forget()
    assert [code.of_method(name) for name in ("sys", "no_such", "nothing")] == [None, None, None]
    code.forget()


def test_the_commit_is_that_of_the_checkout():
    from ddbench.system.environment import commit

    git = ("git", "-C", str(ROOT), "rev-parse", "HEAD")
    assert commit()[0] == subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
