"""The documentation: pages made of the code's own data, commands that parse, and examples that run as they are written."""

import inspect
import os
import pkgutil
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import typer
from generated import methods, protocols, records
from generated.marks import MARK, TEXTS
from generated.text import description, folded, table
from typer.testing import CliRunner

from ddbench import plugins
from ddbench.cli.app import app
from ddbench.distillation.method import GROUP, find_method
from ddbench.report.facts import method_facts
from ddbench.schema import Strict

ROOT = Path(__file__).resolve().parent.parent
PAGES = {path.relative_to(ROOT / "docs").as_posix(): path.read_text() for path in (ROOT / "docs").rglob("*.md")}
OURS = {point.name: point.module for point in entry_points(group=GROUP) if point.module.startswith("ddbench.")}
FENCE = re.compile(r'^```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$', re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", OURS)
def test_a_method_is_described_by_its_own_page(name):
    """`cda` and `sre2l++` take their `distill` from `sre2l`, and have docstrings of their own."""
    page = inspect.cleandoc(import_module(OURS[name]).__doc__)
    assert method_facts(find_method(name))["description"] == page


@pytest.mark.parametrize("name", OURS)
def test_the_page_of_a_method_has_all_that_it_says_of_itself(name):
    found, page = method_facts(find_method(name)), methods.page(name)
    assert name in methods.names() and page.startswith(f"# {name}: {found['title']}\n")
    for words in (*(row["name"] for row in found["hyper"]), *(entry["dataset"] for entry in found["recipes"])):
        assert words in page
    assert page.count("<tr>") >= len(found["hyper"]) + len(found["recipes"])
    assert "DIFFERENCES" not in page and "`" not in re.sub(
        r"```.*?```", "", page.partition("## Algorithm")[2].partition("## Diff")[0]
    )
    assert re.fullmatch(r"[a-z0-9-]+\.md", methods.file(name))


def test_a_docstring_is_written_as_lists_and_formulas():
    text = """Title with `code` & <tags>,
on two lines.

For every class:
1. First
   goes on:
   a. nested a_b
   b. with

          x = y  (`place`)
            + z

      and after
2. Second
- point

Last."""
    assert description(text).replace("\n", "") == (
        "<p>Title with <code>code</code> &amp; &lt;tags&gt;, on two lines.</p><p>For every class:</p>"
        '<ol><li><p>First goes on:</p><ol type="a"><li><p>nested a_b</p></li><li><p>with</p>'
        '<pre class="formula">x = y  (place)  + z</pre><p>and after</p></li></ol></li><li><p>Second</p></li></ol>'
        "<ul><li><p>point</p></li></ul><p>Last.</p>"
    )


def test_cells_are_escaped_and_long_ones_folded():
    assert "<td>a &lt; b | <code>c</code></td>" in table(("x",), [("a < b | `c`",)])
    assert str(folded(["a = 1"])) == "<code>a = 1</code>"
    assert str(folded([*"abcde"])).startswith("<details><summary>5 fields</summary><code>a</code> ")


def test_every_field_of_a_record_says_what_it_is():
    for part in records.PARTS:
        _, meanings = records.attributes(part)
        assert all(meanings.values())

    class Silent(Strict):
        """A part.

        Attributes:
            said: something,
                on two lines.
            one, two: both.
        """

        said: int
        one: int
        two: int
        other: int = 0

    with pytest.raises(ValueError, match="Silent does not say what other is"):
        records.attributes(Silent)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 0, "maximum": 2**63 - 1}, "whole number, 0 or more"),
        ({"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "null"}]}, "number, 0 to 1 or null"),
        ({"type": "string", "pattern": "^[0-9a-f]{64}$"}, "64 hex digits"),
        ({"enum": ["ok", "n/a"]}, "`ok` or `n/a`"),
        ({"type": "array", "items": {"$ref": "#/$defs/Run"}}, 'list: <a href="#run">Run</a>'),
        ({"type": "object", "additionalProperties": True}, "object: name to anything"),
    ],
)
def test_types_in_words(schema, words):
    assert records.words(schema) == words


def test_pages_ask_for_every_generated_text_and_for_no_other():
    asked = [mark["what"] for page in PAGES.values() for mark in MARK.finditer(page) if mark["kind"] == "generated"]
    assert sorted(asked) == sorted(TEXTS)
    assert {"hard-v1", "soft-v1", "shipped-v1"} <= set(protocols.names())


WRITTEN = {name: (ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")} | PAGES
PATH = re.compile(
    r"(?<![\w./-])((?:ddbench|methods|evaluators|leaderboard|tests|docs|benchmarks|results)/[\w./-]*\w/?)(?![\w{*-])"
)
NAME = re.compile(r"`(ddbench(?:\.\w+)+)`")


@pytest.mark.parametrize("page", WRITTEN)
def test_every_path_and_name_in_a_page_is_there(page):
    """In sentences and tables; blocks show what the reader makes, and MkDocs checks links."""
    text = re.sub(r"\]\([^)]*\)", "", FENCE.sub("", WRITTEN[page]))
    gone = {path for path in PATH.findall(text) if not (ROOT / path).exists()}
    assert gone <= {"results/submitted"}  # of which a clone may have none
    for name in set(NAME.findall(text)) - plugins.KINDS.keys():
        pkgutil.resolve_name(name)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_the_layout_names_every_package(page):
    packages = [path.parent.name for path in (ROOT / "ddbench").glob("*/__init__.py")]
    assert packages and all(f"{name}/" in WRITTEN[page] or f".{name}`" in WRITTEN[page] for name in packages)


def lines():
    """Every command of ddbench in the pages and the README: those in blocks, and those in sentences."""
    for name, text in WRITTEN.items():
        blocks = [block["text"] for block in FENCE.finditer(text) if not block["language"]]
        found = [line for block in blocks for line in block.splitlines()]
        found += re.findall(r"`(ddbench [^`]+)`", FENCE.sub("", text))
        found += [mark["what"] for mark in MARK.finditer(text) if mark["kind"] == "output"]
        yield from (pytest.param(line, id=f"{name}: {line[:60]}") for line in found if line.startswith("ddbench "))


@pytest.mark.parametrize("line", [*lines()])
def test_every_command_in_the_pages_is_one(line):
    """Parsed with all its options, and not run."""
    words = shlex.split(line, comments=True)[1:]
    command, context = typer.main.get_command(app), None
    while hasattr(command, "get_command") and words and not words[0].startswith("-"):
        context = typer.Context(command, parent=context)
        command, words = command.get_command(context, words[0]), words[1:]
        assert command is not None
    if {"--help", "--columns"}.isdisjoint(words) and words:
        command.make_context(command.name, words, parent=context)


def written(page, folder):
    """Write every file that a page shows into a folder."""
    for block in FENCE.finditer(PAGES[page]):
        if block["title"]:
            path = folder / block["title"]
            path.parent.mkdir(exist_ok=True)
            path.write_text(block["text"])


def typed(page):
    """The commands of ddbench in each block of a page that has some."""
    blocks = (block["text"].splitlines() for block in FENCE.finditer(PAGES[page]) if not block["language"])
    found = ([line for line in block if line.startswith("ddbench ")] for block in blocks)
    return [block for block in found if block]


def run(script, capsys):
    """What a Python file prints, run in this process."""
    runpy.run_path(str(script), run_name="__main__")
    return capsys.readouterr().out


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_set_from_ones_own_loop_is_scored(folder, capsys):
    written("own-sets.md", folder)
    assert re.fullmatch(r"\[0\.[6-9]\d*, 0\.[6-9]\d*\]\n", run(folder / "own_loop.py", capsys))


def test_a_network_registered_with_timm_is_a_student(folder, capsys):
    written("add-a-network.md", folder)
    assert re.fullmatch(r"timm:two_layers \[0\.[5-9]\d*\]\n", run(folder / "own_network.py", capsys))


def test_a_folder_is_a_data_set(folder, capsys):
    written("add-a-data-set.md", folder)
    run(folder / "make_shapes.py", capsys)
    for line in typed("add-a-data-set.md")[0]:
        done = CliRunner().invoke(app, shlex.split(line)[1:])
        assert done.exit_code == 0, done.stderr
    assert "shapes@" in done.stdout and "random" in done.stdout


@pytest.fixture
def package(folder, monkeypatch):
    """Installs the package that a page shows, for one test."""

    def install(page):
        written(page, folder)
        (source,) = {path.parent for path in folder.glob("*/pyproject.toml")}
        target = folder / "installed"
        words = ["install", "--no-deps", "--no-build-isolation", "--no-index", "-q", "--target", str(target)]
        done = subprocess.run([sys.executable, "-m", "pip", *words, str(source)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        monkeypatch.syspath_prepend(target)
        forget()

    yield install
    monkeypatch.undo()
    forget()


def forget():
    plugins._declared.cache_clear()
    plugins.find.cache_clear()


def test_a_target_kind_is_a_package(package, folder, capsys):
    package("add-a-target-kind.md")
    assert re.fullmatch(r"\[0\.[6-9]\d*, 0\.[6-9]\d*\] \{.*'targets': 8\}\n", run(folder / "use_smoothed.py", capsys))


@pytest.mark.parametrize(("page", "name"), [("add-a-data-set.md", "shapes"), ("add-a-network.md", "strided-w16-in")])
def test_what_a_page_adds_is_a_package(page, name, package, folder, capsys):
    """The page's files, installed, and the last block of its commands."""
    package(page)
    if page == "add-a-data-set.md":
        run(folder / "make_shapes.py", capsys)
        place = Path(os.environ["DDBENCH_DATA"])
        place.mkdir(parents=True)
        shutil.move("shapes.npz", place)
    for line in typed(page)[-1]:
        done = CliRunner().invoke(app, shlex.split(line)[1:])
        assert done.exit_code == 0, done.stderr
    (record,) = (folder / "records").rglob("*.json")
    assert f'"{name}"' in record.read_text()


def copied_core(folder):
    """Copy ddbench as a wheel has it."""
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for package, place in setup["package-dir"].items():
        copy = folder / package.replace(".", "/")
        shutil.copytree(ROOT / place, copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))


def active_environment(folder):
    """An environment as an active virtual one: it has our libraries, and what is installed goes into its own folder."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    (place,) = (folder / "lib").glob("python*/site-packages")
    (place / "ours.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    for name, call in {"pip": "-m pip", "ddbench": "-m ddbench"}.items():
        script = folder / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{python}" {call} "$@"\n')
        script.chmod(0o755)
    return {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}


@pytest.mark.slow
def test_the_page_of_submissions_can_be_followed_from_the_top(folder):
    """All blocks but those that name a stranger's record, word for word, with ddbench as a wheel leaves it: no checkout."""
    copied_core(folder / "core")
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "false", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    environment = active_environment(folder / "environment") | offline | {"PYTHONPATH": str(folder / "core")}
    (folder / "empty").mkdir()
    blocks = [block["text"] for block in FENCE.finditer(PAGES["submit.md"])]
    followed = [block for block in blocks if "RECORD" not in block]
    assert len(followed) == len(blocks) - 2
    for block in followed:
        done = subprocess.run(
            ["bash", "-ec", block], cwd=folder / "empty", env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    assert "holds" in done.stdout
    assert "my-method" in (folder / "empty" / "site" / "index.html").read_text(encoding="utf-8")
