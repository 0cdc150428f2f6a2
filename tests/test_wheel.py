"""The wheel, installed beside the libraries of the running environment and used outside the clone."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


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
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(out),
        str(source),
    ]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the unpacked wheel alone; the libraries come from the running environment."""
    target = tmp_path_factory.mktemp("installed")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "-q", "--target", str(target), str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return target


def run_installed(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`python -P -m ddbench WORDS` with the wheel first on the path, in an empty folder."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(installed),
        "DDBENCH_CACHE": str(folder / "cache"),
        "DDBENCH_RESULTS": str(folder / "results"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "ddbench", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)


def test_wheel_owns_one_top_level_name_and_holds_the_recipes(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"ddbench"}
    assert {"ddbench/methods/dm.py", "ddbench/methods/recipes/dm.toml", "ddbench/evaluators/hard.py"} <= set(names)


def test_wheel_runs_outside_the_clone(installed: Path, tmp_path: Path) -> None:
    where = run_installed(installed, tmp_path, "methods", "--json")
    assert where.returncode == 0, where.stderr
    assert '"dm"' in where.stdout
    code = "import ddbench, ddbench.methods.dm as dm; print(ddbench.__file__, dm.__file__)"
    files = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
    )
    assert files.stdout.count(str(installed)) == 2, files.stdout + files.stderr


def test_wheel_distils_and_evaluates_outside_the_clone(installed: Path, tmp_path: Path) -> None:
    done = run_installed(installed, tmp_path, "run", "random", "--dataset", "digits", "--ipc", "1", "--seeds", "1")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "results").rglob("*.json"))) == 1
    site = run_installed(installed, tmp_path, "leaderboard", "build", "--out", "site")
    assert site.returncode == 0, site.stderr
    assert "assets/site.css" in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert (tmp_path / "site" / "assets" / "site.css").stat().st_size > 1000
    assert run_installed(installed, tmp_path, "plot", "--kind", "bars", "--out", "bars.png").returncode == 0
