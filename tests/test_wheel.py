"""The wheel, installed beside the libraries of the running environment and used outside the clone."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ddbench.system.environment import commit

ROOT = Path(__file__).resolve().parent.parent
PIP = [sys.executable, "-m", "pip"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the tracked files, so that nothing is left in the clone."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for folder in ("ddbench", "methods", "evaluators", "leaderboard", "results/reported"):
        for file in sorted((ROOT / folder).rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                copy = source / file.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(file.read_bytes())
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    build = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(out), str(source)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the unpacked wheel alone; the libraries come from the running environment."""
    target = tmp_path_factory.mktemp("installed")
    install = [*PIP, "install", "--no-deps", "-q", "--target", str(target), str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return target


def run_installed(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `python WORDS` with the wheel first on the path, in an empty folder."""
    folders = {f"DDBENCH_{name.upper()}": str(folder / name) for name in ("cache", "results")}
    environment = {**os.environ, **folders, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done


def test_wheel_owns_one_top_level_name_and_holds_the_recipes(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"ddbench"}
    for name in ("methods/dm.py", "methods/recipes/dm.toml", "evaluators/hard.py", "extras/template/method.py.txt"):
        assert f"ddbench/{name}" in names


def test_wheel_runs_outside_the_clone(installed: Path, tmp_path: Path) -> None:
    assert '"dm"' in run_installed(installed, tmp_path, "-m", "ddbench", "methods", "--json").stdout
    code = "import ddbench, ddbench.methods.dm as dm; print(ddbench.__file__, dm.__file__)"
    assert run_installed(installed, tmp_path, "-c", code).stdout.count(str(installed)) == 2


def test_wheel_distils_and_evaluates_outside_the_clone(installed: Path, tmp_path: Path) -> None:
    words = ("run", "random", "--dataset", "digits", "--ipc", "1", "--seeds", "1")
    run_installed(installed, tmp_path, "-m", "ddbench", *words)
    (record,) = (tmp_path / "results").rglob("*.json")
    assert [run.get("commit") for run in json.loads(record.read_text())["runs"]] == [None]
    run_installed(installed, tmp_path, "-m", "ddbench", "leaderboard", "build", "--out", "site")
    assert "assets/site.css" in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert (tmp_path / "site" / "assets" / "site.css").stat().st_size > 1000
    run_installed(installed, tmp_path, "-m", "ddbench", "plot", "--kind", "bars", "--out", "bars.png")


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a clone")
def test_runs_of_a_clone_know_their_commit() -> None:
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    assert len(head) == 40 and commit()[0] == head
