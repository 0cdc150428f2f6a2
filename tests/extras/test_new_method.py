"""A plugin that `ddbench new-method` wrote: it installs, appears, passes the checks and its own tests, and is one page."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ddbench.cli.app import app
from ddbench.distillation.recipes import parse
from ddbench.errors import UsageError
from ddbench.extras.new_method import SOURCE, new_method

FILES = {
    "pyproject.toml",
    "README.md",
    "ddbench_my_own2/__init__.py",
    "ddbench_my_own2/method.py",
    "ddbench_my_own2/recipes/my-own2.toml",
    "tests/test_ddbench_my_own2.py",
}


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_it_is_one_page_with_recipe_and_test(tmp_path):
    place = new_method("my-own2", tmp_path / "plugin")
    assert files(place) == FILES
    page = (place / "ddbench_my_own2/method.py").read_text()
    assert len(page.splitlines()) < 80 and "$" not in page and 'name="my-own2"' in page
    recipe = parse((place / "ddbench_my_own2/recipes/my-own2.toml").read_text(), "recipe")
    assert recipe.method == "my-own2" and recipe.recipe[0].default


@pytest.mark.parametrize("name", ["", "A", "a b", "a_b", "../a", "a-", "-a", "1a", "a--b", "a" * 41, "é", "dm", "a\n"])
def test_a_name_that_cannot_be_is_refused_and_nothing_written(name, tmp_path):
    with pytest.raises(UsageError) as caught:
        new_method(name, tmp_path / "plugin")
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("dear")
    with pytest.raises(UsageError, match="not empty"):
        new_method("own", tmp_path)
    assert files(tmp_path) == {"mine"}


def test_it_is_written_outside_of_ddbench():
    with pytest.raises(UsageError, match="inside ddbench"):
        new_method("own", SOURCE / "own")
    assert not (SOURCE / "own").exists()


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the plugin, installed by pip beside the libraries of the running environment."""
    root = tmp_path_factory.mktemp("plugin")
    place, target = new_method("my-own2", root / "source"), root / "installed"
    words = ("install", "--no-deps", "--no-build-isolation", "--no-index", "-q", "--target", str(target), str(place))
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return place, target


def with_plugin(installed, folder, *words):
    environment = {**os.environ, "PYTHONPATH": str(installed[1]), "OMP_NUM_THREADS": "1"}
    environment["DDBENCH_CACHE"] = str(folder / "cache")
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=folder, env=environment)


def test_it_installs_appears_and_passes_the_checks(installed, tmp_path):
    listed = with_plugin(installed, tmp_path, "-m", "ddbench", "methods", "my-own2", "--json")
    assert listed.returncode == 0, listed.stderr
    facts = json.loads(listed.stdout)
    assert facts["name"] == "my-own2" and [entry["name"] for entry in facts["recipes"]] == ["first"]
    assert all(field["description"] for field in facts["hyper"])
    checked = with_plugin(installed, tmp_path, "-m", "ddbench", "check", "my-own2", "--json")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert [each["passed"] for each in json.loads(checked.stdout)] == [True] * 6
    assert not (tmp_path / "cache" / "synsets").exists(), "the checks have a cache of their own"


def test_its_own_tests_pass_and_can_fail(installed, tmp_path):
    place, _ = installed
    test = place / "tests" / "test_ddbench_my_own2.py"
    done = with_plugin(installed, tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test))
    assert done.returncode == 0, done.stdout[-2000:]
    broken = tmp_path / "broken.py"
    broken.write_text(test.read_text().replace("/ 3\n", "/ 2\n"))
    done = with_plugin(
        installed, tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(broken), "-k", "definition"
    )
    assert done.returncode == 1 and "1 failed" in done.stdout


def test_it_runs_by_its_recipe(installed, tmp_path):
    words = ("run", "my-own2", "--ipc", "1", "--seeds", "1", "--results", "records")
    done = with_plugin(installed, tmp_path, "-m", "ddbench", *words)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "records").rglob("*.json")
    record = json.loads(path.read_text())
    assert record["recipe"]["name"] == "first" and record["recipe"]["hyper"]["group"] == 4


def test_the_command_names_what_comes_next_and_check_names_what_fails(tmp_path, monkeypatch, toys):
    monkeypatch.chdir(tmp_path)
    made = CliRunner().invoke(app, ["new-method", "own"])
    assert made.exit_code == 0 and made.stdout == "ddbench-own\n" and "pip install" in made.stderr
    assert Path("ddbench-own/ddbench_own/method.py").is_file()
    found = CliRunner().invoke(app, ["check", "toy"])  # whose hyper-parameters do not all say what they are
    assert found.exit_code == 1 and "toy fails 1 of 6 checks: page" in found.stderr
    assert CliRunner().invoke(app, ["check", "radnom"]).exit_code == 2
