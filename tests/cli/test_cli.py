"""The command line as a person meets it: what it prints where, its exit codes, and that bad input writes nothing."""

import json
import shlex
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from command import ddbench, done
from typer.main import get_command

from ddbench.cli.app import COMMANDS, HOMES, app
from ddbench.distillation.method import declared_budgets, find_method, method_names
from ddbench.records.store import RecordStore
from ddbench.report.format import component

HEAVY = ("torch", "pandas", "matplotlib", "numpy", "scipy", "ddbench.distillation.recipes")
QUICK = ("--protocol", "toy-hard-v1", "--seeds", "1")
SWEEP = ("sweep", "--recipe", "generic", "--ipc", "1,2", "--protocols", "toy-hard-v1", "--seeds", "2")


def started(*words, **more):
    """The command in a process of its own, which Ctrl-C reaches even where the tests run in a shell's background."""
    return subprocess.Popen(
        [sys.executable, "-m", "ddbench", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        **more,
    )


def files(folder):
    return {path for path in Path(folder).rglob("*") if path.is_file()}


@pytest.fixture
def toy_set(toys, tmp_path):
    path = tmp_path / "toy.safetensors"
    done(ddbench("distill", "toy", "--recipe", "generic", "--ipc", "2", "--out", path, "--set", "ships=classes"))
    return path


# --- starting, help


@pytest.mark.parametrize(
    ("words", "heavy", "code"),
    [
        ((), (*HEAVY, "pydantic", "rich.console", "ddbench.cli.running"), 0),
        (("--help",), (*HEAVY, "pydantic", "rich.console", "ddbench.cli.running"), 0),
        (("sweep", "--help"), HEAVY, 0),
        (("evaluate", "-h"), HEAVY, 0),
        (("run", "dm"), HEAVY, 2),
        (("sweep", "--methods", "whole,nosuch"), HEAVY, 2),
        (("table",), ("torch", "matplotlib", "scipy"), 2),
    ],
    ids=str,
)
def test_help_and_bad_input_load_nothing_heavy(words, heavy, code):
    script = (
        "import sys\n"
        "from ddbench.cli import main\n"
        f"try: main({list(words)!r})\n"
        f"except SystemExit as leave: assert leave.code == {code}, leave.code\n"
        f"print('loaded', [name for name in {heavy!r} if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.endswith("loaded []\n")


@pytest.mark.parametrize("name", method_names())
def test_budgets_of_a_method_are_read_from_its_source(name):
    assert declared_budgets(name) == find_method(name).budgets


def test_version():
    assert done(ddbench("--version")).stdout.startswith("ddbench 0.")


def command(name):
    return get_command(app).get_command(None, name)


def test_all_commands_are_there_and_say_what_they_do():
    expected = (
        "demo methods datasets protocols networks distill pack-labels evaluate run sweep reproduce table scores compare plot "
        "show import export tune new-method check submit verify pull check-submissions doctor"
    )
    lines = {name: line for section in COMMANDS.values() for name, (_, line) in section.items()}
    assert set(lines) == {*expected.split()}
    top = " ".join(done(ddbench("--help")).stdout.split())
    for name, line in lines.items():
        assert command(name).help.split("\n\n")[0] == line and len(line) <= 75, name
        assert f"{name} {line[:30]}" in top, name


def example_lines():
    lines = [line.strip() for name in HOMES for line in command(name).epilog.splitlines()]
    return [line for line in lines if line.startswith("ddbench ")]


@pytest.mark.parametrize("line", example_lines())
def test_every_worked_example_parses(line):
    _, name, *words = shlex.split(line)
    command(name).make_context(name, words)


def test_every_command_has_a_worked_example():
    assert {line.split()[1] for line in example_lines()} == set(HOMES)


# --- errors: exit code 2, one line on stderr, nothing written


def recipe_file(tmp_path, body):
    path = tmp_path / "own.toml"
    path.write_text('method = "toy"\n[[recipe]]\nname = "own"\ndataset = "digits"\nipc = 1\nsource = "here"\n' + body)
    return path


ONE = ("run", "toy", "--recipe", "generic", "--ipc", "1", *QUICK)
BAD = {
    "unknown command": (("evalute", "x"), ("evalute", "evaluate")),
    "unknown option": (("run", "toy", "--dataste", "digits"), ("--dataste", "--dataset")),
    "missing argument": (("run",), ("METHOD",)),
    "missing methods": (("sweep", "--ipc", "1"), ("--methods",)),
    "unknown method": (("run", "radnom", "--ipc", "1"), ("radnom", "random")),
    "unknown method, listing": (("methods", "radnom"), ("radnom", "random")),
    "broken method": (("run", "broken", "--ipc", "1"), ("broken", "toybox")),
    "unknown data set": ((*ONE, "--dataset", "digit"), ("digit", "digits")),
    "unknown protocol": ((*ONE, "--protocol", "hard-v2"), ("hard-v2", "hard-v1")),
    "unknown network": ((*ONE, "--network", "convent"), ("convent", "convnet")),
    "unknown network for the method": ((*ONE, "--distill-network", "convent"), ("convent", "convnet")),
    "unknown recipe": (("run", "dm", "--ipc", "1", "--recipe", "papper"), ("papper", "dm")),
    "no recipe for the cell": (("run", "dm", "--ipc", "7"), ("dm", "IPC 7", "generic")),
    "unknown hyper-parameter": ((*ONE, "--set", "stepps=3"), ("stepps", "steps")),
    "wrong type": ((*ONE, "--set", "steps=many"), ("steps", "many")),
    "out of range": ((*ONE, "--set", "steps=0"), ("steps", "1")),
    "no equals sign": ((*ONE, "--set", "steps"), ("steps", "KEY=VALUE")),
    "no budget": (("run", "toy", "--recipe", "generic"), ("toy", "--ipc")),
    "two budgets": ((*ONE, "--fraction", "0.1"), ("--ipc", "--fraction")),
    "budget of another kind": (("run", "toy", "--recipe", "generic", "--fraction", "0.1"), ("toy", "fraction")),
    "IPC of zero": (("run", "toy", "--ipc", "0"), ("ipc", "0")),
    "IPC no number": (("sweep", "--methods", "toy", "--ipc", "1,x"), ("--ipc", "x")),
    "IPC above the class size": (("run", "random", "--ipc", "1000"), ("1000", "digits")),
    "fraction above 1": (("run", "random", "--fraction", "1.5"), ("fraction", "1.5")),
    "seeds no number": ((*ONE, "--seeds", "a"), ("--seeds", "a")),
    "no seed": ((*ONE, "--seeds", "0"), ("--seeds", "0")),
    "no worker": ((*ONE, "--workers", "0"), ("--workers",)),
    "unknown device": ((*ONE, "--device", "gpu"), ("gpu", "cpu")),
    "missing data set": (("run", "random", "--ipc", "1", "--dataset", "tiny-imagenet"), ("http", "tiny-imagenet-200")),
    "missing folder": (("run", "random", "--ipc", "1", "--dataset", "folder:/nowhere"), ("/nowhere",)),
    "name of a data set": ((*ONE, "--dataset-name", "mine"), ("--dataset-name", "digits")),
    "no file": (("evaluate", "nowhere.safetensors"), ("nowhere.safetensors",)),
    "no file to show": (("show", "nowhere.safetensors"), ("nowhere.safetensors",)),
    "no record to show": (("show", "nowhere.json"), ("nowhere.json",)),
    "no lender": ((*ONE, "--borrow", "nowhere.safetensors"), ("nowhere.safetensors",)),
    "no records": (("table",), ("no records", "--results")),
    "unknown format": (("table", "--format", "markdwn"), ("markdwn", "markdown")),
    "unknown view": (("table", "--view", "wide"), ("wide", "long")),
    "unknown plot": (("plot", "--kind", "bar", "--out", "x.png"), ("bar", "bars")),
    "plot of another ending": (("plot", "--out", "x.gif"), ("x.gif", ".png")),
    "kind without a file": (("plot", "--kind", "bars"), ("bars", "--out")),
    "distil without a file": (("distill", "toy", "--recipe", "generic", "--ipc", "1"), ("--out",)),
    "unknown method in the demo": (("demo", "--methods", "radnom"), ("radnom", "random")),
    "tune without a grid": (("tune", "toy", "--ipc", "1", "--out", "t.toml"), ("--grid",)),
    "tune without a TOML": (("tune", "toy", "--ipc", "1", "--grid", "steps=1,2", "--out", "t.txt"), ("t.txt", ".toml")),
}


def refused(result, words, tmp_path, before):
    assert result.exit_code == 2, (result.exit_code, result.stdout, result.stderr, result.exception)
    assert result.stderr.startswith("ddbench: error: ") and result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr, result.stderr
    assert result.stdout == ""
    assert files(tmp_path) == before


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_writes_nothing(case, toys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words, named = BAD[case]
    refused(ddbench(*words), named, tmp_path, set())


BAD_RECIPES = {
    "unknown key": ("[recipe.hyper]\nstepps = 3\n", ("own.toml", "stepps", "steps")),
    "wrong type": ('[recipe.hyper]\nsteps = "many"\n', ("own.toml", "steps")),
    "unknown field": ("ipcs = 3\n", ("own.toml", "ipcs")),
    "broken": ("= 3\n", ("own.toml", "line")),
}


@pytest.mark.parametrize("case", BAD_RECIPES)
def test_a_bad_recipe_file_is_named_with_its_key(case, toys, tmp_path):
    body, named = BAD_RECIPES[case]
    path = recipe_file(tmp_path, body)
    refused(ddbench("run", "toy", "--ipc", "1", "--recipe", path, *QUICK), named, tmp_path, {path})


def test_bad_sets_are_refused(toy_set, tmp_path):
    whole = toy_set.read_bytes()
    cut, changed = tmp_path / "cut.safetensors", tmp_path / "changed.safetensors"
    cut.write_bytes(whole[:-10])
    changed.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
    before = files(tmp_path)
    for path, word in ((cut, "truncated"), (changed, "hash")):
        for command in ("evaluate", "show"):
            refused(ddbench(command, path), (path.name, word), tmp_path, before)
        refused(ddbench("export", path, "--out", tmp_path / "x.pt"), (path.name, word), tmp_path, before)


def imported(tmp_path, images, labels, **more):
    path = tmp_path / "theirs.npz"
    np.savez(path, images=images, labels=labels)
    words = {"--dataset": "digits", "--space": "pixel", "--out": tmp_path / "set.safetensors"} | more
    return ddbench("import", path, *(word for pair in words.items() for word in pair)), {path}


IMAGES, LABELS = np.full((10, 1, 8, 8), 0.5, np.float32), np.arange(10)
BAD_IMPORTS = {
    "NaN": (np.where(np.arange(64).reshape(8, 8) == 3, np.nan, IMAGES), LABELS, {}, ("finite",)),
    "wrong class": (IMAGES, LABELS + 1, {}, ("10", "9")),
    "too few labels": (IMAGES, LABELS[:9], {}, ("9", "10")),
    "a class without an image": (IMAGES, np.zeros(10, int), {}, ("class",)),
    "wrong side": (IMAGES[..., :4, :4], LABELS, {}, ("8",)),
    "unknown space": (IMAGES, LABELS, {"--space": "pixels"}, ("pixels", "pixel")),
    "no number": (IMAGES, LABELS, {"--syn-lr": "fast"}, ("fast",)),
}


@pytest.mark.parametrize("case", BAD_IMPORTS)
def test_a_bad_import_is_refused(case, tmp_path):
    images, labels, more, named = BAD_IMPORTS[case]
    result, before = imported(tmp_path, images.astype(np.float32), labels, **more)
    refused(result, named, tmp_path, before)


def test_an_unwritable_place_is_refused_before_the_work(toys, toy_set, tmp_path):
    file = tmp_path / "file"
    file.write_text("no folder")
    before, calls = files(tmp_path), toys.count("distill")
    distilled = ("distill", "toy", "--recipe", "generic", "--ipc", "1", "--out", file / "x.safetensors")
    exported = ("export", toy_set, "--out", file / "x.pt")
    for words in (distilled, (*ONE, "--results", file), exported, ("demo", "--out", file)):
        refused(ddbench(*words), ("file",), tmp_path, before)
    assert toys.count("distill") == calls


@pytest.mark.parametrize(("name", "good"), [("WORKERS", "1"), ("THREADS", "1"), ("DEVICE", "cpu")])
def test_bad_environment_is_named_and_flags_beat_it(name, good, toys, tmp_path, monkeypatch):
    monkeypatch.setenv(f"DDBENCH_{name}", "some")
    refused(ddbench(*ONE, "--quiet"), (f"DDBENCH_{name}", "some"), tmp_path, files(tmp_path))
    done(ddbench(*ONE, f"--{name.lower()}", good))


# --- running


def test_flags_beat_environment_beats_defaults(toys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDBENCH_RESULTS", str(tmp_path / "environment"))
    monkeypatch.setenv("DDBENCH_THREADS", "2")
    done(ddbench(*ONE, "--results", tmp_path / "flag", "--threads", "1"))
    done(ddbench(*ONE))
    monkeypatch.delenv("DDBENCH_RESULTS")
    monkeypatch.delenv("DDBENCH_THREADS")
    done(ddbench(*ONE))
    for place, threads in (("flag", 1), ("environment", 2), ("results/measured", 1)):
        (record,) = RecordStore(tmp_path / place)
        assert [run.threads for run in record.runs] == [threads]
    monkeypatch.setenv("DDBENCH_CACHE", str(tmp_path / "other"))
    done(ddbench(*ONE, "--results", tmp_path / "again"))
    assert toys.count("distill") == 3  # per threads, and in the other cache
    assert (tmp_path / "other" / "synsets").is_dir()


def test_run_says_what_was_made_and_what_was_reused(toys):
    words = (*ONE[:-2], "--seeds", "2")
    first, second = done(ddbench(*words)), done(ddbench(*words))
    assert "0 runs reused, 2 made" in first.stderr and "2 runs reused, 0 made" in second.stderr
    assert "toy-hard-v1" in first.stdout and first.stdout == second.stdout
    assert done(ddbench(*words, "--quiet")).stderr == ""


def test_sweep_takes_lists(toys, tmp_path):
    words = ("sweep", "--methods", "toy,random", "--ipc", "1,2", "--protocols", "toy-hard-v1", "--recipe", "generic")
    words += ("--networks", "convnet-d1-w8,mlp", "--synthesis-seeds", "0,3", "--seeds", "4,")
    result = done(ddbench(*words))
    records = list(RecordStore(tmp_path / "home" / "results"))
    assert len(records) == 2 * 2 * 2 * 2
    assert {record.synthesis_seed for record in records} == {0, 3}
    assert {run.seed for record in records for run in record.runs} == {4}
    assert "16 made" in result.stderr


def test_a_failed_job_is_exit_code_1_with_its_reason_and_others_go_on(toys, tmp_path):
    words = (*SWEEP, "--methods", "toy", "--ipc", "1")
    failed = ddbench(*words, "--set", "fail=diverge")
    assert failed.exit_code == 1
    assert "seed 0, 1: the toy diverged" in failed.stderr and "Traceback" not in failed.stderr
    again = ddbench(*words, "--set", "fail=diverge")
    assert "2 runs reused" in again.stderr and toys.count("distill") == 1


def test_a_protocol_that_does_not_apply_is_said_and_no_failure(toys):
    result = done(ddbench(*ONE, "--protocol", "shipped-v1"))
    assert "n/a" in result.stderr and "student recipe" in result.stderr


def test_borrowing_goes_with_shipped_recipes_only(toy_set, tmp_path):
    words = ("run", "random", "--ipc", "2", "--seeds", "1", "--borrow", toy_set)
    done(ddbench(*words, "--protocol", "shipped-v1"))
    (record,) = RecordStore(tmp_path / "home" / "results")
    assert (record.method, record.borrowed) == ("random", "toy")
    refused(ddbench(*words, "--protocol", "toy-hard-v1"), ("--borrow", "toy-hard-v1"), tmp_path, files(tmp_path))


def test_dry_run_shows_the_plan_and_writes_no_record(toys, tmp_path):
    words = (*SWEEP, "--methods", "toy")
    planned = done(ddbench(*words, "--dry-run"))
    assert not files(tmp_path / "home" / "results") and not files(tmp_path / "home" / "cache" / "synsets")
    assert planned.stdout.count("recipe generic") == 2 and "steps" in planned.stdout
    assert "To do: 2 sets, 4 trainings" in planned.stdout and "Estimate: " in planned.stdout
    done(ddbench(*words, "--ipc", "1"))
    rest = done(ddbench(*words, "--dry-run"))
    assert "set is cached" in rest.stdout and "all 2 trainings are recorded" in rest.stdout
    assert "To do: 1 set, 2 trainings" in rest.stdout
    for path in (tmp_path / "home" / "cache" / "synsets").glob("*.safetensors"):
        path.unlink()
    gone = done(ddbench(*words, "--ipc", "1", "--dry-run"))
    assert "seed 0: set is not cached, and not needed" in gone.stdout and "To do: 0 sets, 0 trainings" in gone.stdout
    distil = ("distill", "toy", "--recipe", "generic", "--ipc", "1", "--set", "steps=3", "--dry-run")
    assert "generic+set" in done(ddbench(*distil)).stdout


def test_interrupted_work_goes_on_with_the_same_command(toys, tmp_path):
    words = (*ONE, "--set", "nap=0.3", "--set", "steps=12")
    process = started(*words)
    while toys.count("step") < 2:
        time.sleep(0.05)
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=30)
    assert process.returncode == 130, error
    assert out == "" and "resume" in error and "Traceback" not in error
    steps = toys.count("step")
    done(ddbench(*words))
    assert toys.count("step") <= 12 + 1  # the step that was under way may be made twice
    assert steps < 12


def test_a_reader_that_leaves_is_no_error():
    with started("methods", "dm") as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_wandb_is_asked_for_by_a_flag(toys, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    done(ddbench(*ONE, "--wandb"))
    (record,) = RecordStore(tmp_path / "home" / "results")
    assert record.runs[0].wandb.startswith("offline:")
    assert (tmp_path / "wandb").is_dir()


# --- reading


READING = "methods|methods dm|datasets|datasets mnist|protocols|protocols soft-v1|networks|doctor"


@pytest.mark.parametrize("words", [*READING.split("|"), "networks convnet-d2 --dataset digits"])
def test_reading_commands_give_text_and_json(words):
    text, plain = done(ddbench(*words.split())), done(ddbench(*words.split(), "--json"))
    assert text.stdout.strip() and json.loads(plain.stdout)
    assert max(map(len, text.stdout.splitlines())) <= 120


def test_a_list_of_methods_survives_a_broken_plugin(toys):
    result = done(ddbench("methods"))
    assert "random" in result.stdout and "toybox" in result.stderr
    assert {"random", "dm", "toy"} <= {method["name"] for method in json.loads(ddbench("methods", "--json").stdout)}
    assert ddbench("doctor").exit_code == 1


def test_method_page_has_hyper_parameters_and_recipes():
    page = json.loads(done(ddbench("methods", "dm", "--json")).stdout)
    fields = {field["name"]: field for field in page["hyper"]}
    assert fields["lr_img"]["range"] == "> 0" and fields["iterations"]["default"] == 20_000
    assert page["recipes"] and all(recipe["source"] for recipe in page["recipes"])
    text = ddbench("methods", "dm").stdout
    assert "lr_img" in text and "Differences" in text and "Recipes" in text


def test_protocol_page_has_every_constant():
    facts = json.loads(done(ddbench("protocols", "hard-v1", "--json")).stdout)
    assert len(facts["digest"]) == 64 and facts["students"][0]["max_steps"] == 400


def test_data_set_says_how_to_get_it(tmp_path):
    assert "http" in done(ddbench("datasets", "tiny-imagenet")).stdout
    root = tmp_path / "images" / "train" / "a"
    root.mkdir(parents=True)
    assert ddbench("datasets", f"folder:{tmp_path / 'images'}").exit_code in (0, 2)


def test_evaluate_prints_its_record(toy_set, tmp_path):
    result = done(ddbench("evaluate", toy_set, "--protocol", "toy-hard-v1", "--seeds", "2", "--json"))
    record = json.loads(result.stdout)
    assert record["method"] == "toy" and [run["seed"] for run in record["runs"]] == [0, 1]
    assert "95 %" in ddbench("evaluate", toy_set, "--protocol", "toy-hard-v1", "--seeds", "2").stdout
    assert len(list(RecordStore(tmp_path / "home" / "results"))) == 1


def test_learned_step_sizes_are_short_and_given_ones_whole():
    assert component({"name": "sgd", "lr": 0.017384070539918837, "momentum": 0.9}) == "sgd(lr=0.017384, momentum=0.9)"
    assert component({"name": "adam", "lr": 0.0005, "betas": [0.9, 0.999]}) == "adam(lr=0.0005, betas=[0.9, 0.999])"


def test_distil_writes_what_show_reads(toy_set, tmp_path):
    facts = json.loads(done(ddbench("show", toy_set, "--json")).stdout)
    assert (facts["images"], facts["dataset"], facts["per_class"]) == (20, "digits", [2] * 10)
    picture = tmp_path / "toy.png"
    assert facts["hash"] in done(ddbench("show", toy_set, "--out", picture)).stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    before = files(tmp_path)
    result = ddbench("show", toy_set, "--out", tmp_path / "toy.jpg")
    assert result.exit_code == 2 and files(tmp_path) == before


REPEATED = {
    "default": ("run", "dm", "--ipc", "1", "--set", "iterations=2", "--set", "lr_img=0.5"),
    "generic": (*ONE[:-4], "--set", "steps=2", "--set", "sizes=[3, 4]", "--distill-network", "convnet-d1-w8"),
    "everything": ("run", "whole"),
}


@pytest.mark.parametrize("case", REPEATED)
def test_a_record_shows_the_command_that_makes_it_again(case, toys, tmp_path):
    done(ddbench(*REPEATED[case], "--protocol", "toy-hard-v1", "--seeds", "0,2"))
    store = RecordStore(tmp_path / "home" / "results")
    (path,) = store.paths()
    (line,) = json.loads(done(ddbench("show", path, "--json")).stdout)["reproduce"]
    assert line in ddbench("show", path).stdout
    done(ddbench(*shlex.split(line)[1:], "--results", tmp_path / "again"))
    (copy,) = RecordStore(tmp_path / "again")
    (record,) = store
    assert copy.key() == record.key()
    assert [(run.seed, run.top1) for run in copy.runs] == [(run.seed, run.top1) for run in record.runs]


def test_table_and_plot_of_records(toys, tmp_path):
    done(ddbench(*SWEEP, "--methods", "toy,random"))
    assert "random" in done(ddbench("table")).stdout
    rows = json.loads(done(ddbench("table", "--json", "--methods", "toy")).stdout)
    assert {row["method"] for row in rows} == {"toy"} and all(0 <= row["top1"] <= 1 for row in rows)
    out = tmp_path / "table.tex"
    assert done(ddbench("table", "--format", "latex", "--out", out)).stdout.strip() == str(out)
    assert "tabular" in out.read_text()
    written = done(ddbench("plot", "--out", tmp_path / "plots")).stdout.split()
    assert written and all(Path(path).exists() for path in written)
    done(ddbench("plot", "--kind", "bars", "--ipc", "2", "--out", tmp_path / "one.svg"))
    before = files(tmp_path)
    refused(ddbench("plot", "--kind", "bars", "--out", tmp_path / "x.pdf"), ("--ipc", "ipc 1"), tmp_path, before)
    refused(ddbench("table", "--methods", "dm"), ("dm", "random"), tmp_path, before)
    refused(ddbench("table", "--protocol", "hard-v1"), ("hard-v1", "toy-hard-v1"), tmp_path, before)


def test_import_and_export_give_the_same_set_back(toy_set, tmp_path):
    for name in ("set.pt", "set.npz"):
        done(ddbench("export", toy_set, "--out", tmp_path / name))
        back = tmp_path / f"{name}.safetensors"
        words = ("--dataset", "digits", "--space", "normalised", "--name", "toy", "--out", back)
        hash_of = done(ddbench("import", tmp_path / name, *words)).stdout.split()[1]
        assert hash_of == json.loads(ddbench("show", toy_set, "--json").stdout)["hash"]
    done(ddbench("export", toy_set, "--out", tmp_path / "images"))
    assert len(list((tmp_path / "images").rglob("*.png"))) == 20


def test_an_imported_set_is_scored_under_its_name(toy_set, tmp_path):
    torch.save({"images": torch.rand(10, 1, 8, 8), "labels": torch.arange(10)}, tmp_path / "theirs.pt")
    out = tmp_path / "theirs.safetensors"
    words = ["--dataset", "digits", "--space", "pixel", "--name", "mtt", "--out"]
    done(ddbench("import", tmp_path / "theirs.pt", *words, out))
    record = json.loads(done(ddbench("evaluate", out, *QUICK, "--json")).stdout)
    assert record["method"] == "mtt" and record["imported"]
    path = RecordStore(tmp_path / "home" / "results").paths()[0]
    assert "ddbench evaluate" in ddbench("show", path).stdout


def test_tune_writes_a_recipe_that_run_takes(toys, tmp_path):
    out = tmp_path / "tuned.toml"
    words = ("tune", "toy", "--recipe", "generic", "--ipc", "1", "--grid", "steps=1,2", *QUICK, "--out", out)
    rows = json.loads(done(ddbench(*words, "--json")).stdout)["candidates"]
    assert [row["values"] for row in rows] == [{"steps": 1}, {"steps": 2}] and sum(row["winner"] for row in rows) == 1
    assert "best" in done(ddbench(*words)).stdout
    done(ddbench("run", "toy", "--ipc", "1", "--recipe", out, *QUICK))


# --- commands of plugins


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    from ddbench import plugins

    package = tmp_path / "site" / "cliplug"
    info = tmp_path / "site" / "cliplug-1.0.dist-info"
    package.mkdir(parents=True), info.mkdir()
    (package / "__init__.py").write_text(
        "import typer\nfrom ddbench.errors import UsageError\napp = typer.Typer()\n"
        "@app.command()\ndef one(): print('one')\n@app.command()\ndef two(): raise UsageError('two is bad')\n"
        "def hello(name: str): print('hello', name)\n"
    )
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cliplug\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[ddbench.commands]\nhello = cliplug:hello\nmany = cliplug:app\ngone = cliplug:x\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    plugins._declared.cache_clear()
    yield
    plugins._declared.cache_clear()
    sys.modules.pop("cliplug", None)


def test_plugin_commands_are_listed_unloaded_and_run(plugin):
    assert "hello" in done(ddbench("--help")).stdout and "cliplug" not in sys.modules
    assert done(ddbench("hello", "you")).stdout == "hello you\n"
    assert done(ddbench("many", "one")).stdout == "one\n"
    assert "two is bad" in ddbench("many", "two").stderr
    gone = ddbench("gone")
    assert gone.exit_code == 2 and "cliplug" in gone.stderr
