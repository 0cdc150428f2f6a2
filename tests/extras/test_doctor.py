"""The doctor on a healthy machine and on broken ones."""

from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from ddbench import plugins
from ddbench.data.registry import dataset_names
from ddbench.extras import doctor
from ddbench.extras.doctor import Check, checks, folder_size, group_check, healthy, processor_flags, unmet_requirement


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DDBENCH_RESULTS", str(tmp_path / "results"))
    for name in ("DDBENCH_DATA", "DDBENCH_DEVICE", "DDBENCH_THREADS"):
        monkeypatch.delenv(name, raising=False)


def find(name: str) -> Check:
    return next(check for check in checks() if check.name == name)


def test_every_subject_is_looked_at_and_nothing_is_left_behind(tmp_path: Path) -> None:
    found = {check.name: check for check in checks()}
    assert {"python", "torch", "torchvision", "device", "threads", "cache", "results", "ray"} <= set(found)
    assert {f"data set {name}" for name in dataset_names()} <= set(found)
    assert found["data set digits"].ok and found["cache"].ok and found["results"].ok and found["torchvision"].ok
    assert found["protocols"].ok and "hard-v1" in found["protocols"].detail
    assert all(check.detail and "\n" not in check.detail for check in found.values())
    assert not list(tmp_path.iterdir())


def test_a_data_set_that_is_not_there_says_how_to_get_it() -> None:
    found = find("data set imagenet-1k")
    assert found.ok is None and "image-net.org" in found.detail


def test_a_relative_folder_that_is_there_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("results").mkdir()
    assert doctor._place("results", Path("results")).detail == "results, writable"
    assert doctor._place("results", Path("results/more")).detail == "results/more (not there yet), writable"


def test_a_place_that_cannot_be_written_is_broken(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    found = find("cache")
    assert found.ok is False and "cannot write" in found.detail and not healthy([found])


def test_sizes_are_those_of_the_parts(tmp_path: Path) -> None:
    for part, size in (("synsets", 3 * 1024), ("stages", 5 * 1024**2)):
        (tmp_path / "cache" / part / "deep").mkdir(parents=True)
        (tmp_path / "cache" / part / "deep" / "file").write_bytes(bytes(size))
    assert find("cache size").detail == "stages 5 MB, synsets 3 KB"
    assert folder_size(tmp_path / "cache", limit=1).startswith("at least ")


def test_a_plugin_that_does_not_load_is_named_with_its_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ddbench_broken_plugin.py").write_text("raise RuntimeError('no such library')")
    monkeypatch.syspath_prepend(str(tmp_path))
    declared = {
        "gone": EntryPoint("gone", "ddbench_nowhere:METHOD", "ddbench.methods"),
        "broken": EntryPoint("broken", "ddbench_broken_plugin:METHOD", "ddbench.methods"),
    }
    monkeypatch.setattr(plugins, "_declared", lambda group: declared)
    found = group_check("ddbench.methods", "method")
    assert found.ok is False
    for text in ("gone", "ddbench_nowhere", "broken", "RuntimeError: no such library"):
        assert text in found.detail


def test_a_bad_setting_is_a_finding_not_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDBENCH_THREADS", "many")
    found = {check.name: check for check in checks()}
    assert found["device"].ok is False and "DDBENCH_THREADS" in found["device"].detail
    assert "cache" in found


def test_a_check_that_fails_itself_is_a_finding() -> None:
    def _weird() -> Iterator[Check]:
        yield Check("lost", True, "")
        raise OSError("strange\nmachine")

    assert doctor._guarded(_weird) == [Check("weird", False, "OSError: strange machine")]


def test_requirements_are_those_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    stated = ["numpy", "torch==2.9.1", "scipy==1.0; extra == 'scipy'"]
    monkeypatch.setattr(doctor, "requires", lambda package: stated)
    assert unmet_requirement("torchvision", "torch", "2.9.1+cpu") is None
    assert unmet_requirement("torchvision", "torch", "2.10.0") == "==2.9.1"
    assert unmet_requirement("torchvision", "scipy", "1.17") is None


def test_flags_of_the_processor(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("model name\t: some\nflags\t\t: fpu avx2 amx_bf16\n\nmodel name\t: some\n")
    assert processor_flags(tmp_path / "cpuinfo") == {"fpu", "avx2", "amx_bf16"}
    assert processor_flags(tmp_path / "none") == set()
