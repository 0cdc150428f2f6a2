"""The doctor on a healthy machine and on broken ones."""

from importlib.metadata import EntryPoint
from pathlib import Path

from ddbench import plugins
from ddbench.data.registry import dataset_names
from ddbench.extras import doctor
from ddbench.extras.doctor import Finding, findings, folder_size, group_finding, healthy, processor_flags
from ddbench.settings import cache_dir


def test_every_subject_is_looked_at_and_nothing_is_left_behind(tmp_path):
    found = {finding.name: finding for finding in findings()}
    assert {"python", "torch", "torchvision", "device", "threads", "cache", "results", "ray"} <= set(found)
    assert {f"data set {name}" for name in dataset_names()} <= set(found)
    assert found["data set digits"].ok and found["cache"].ok and found["results"].ok and found["torchvision"].ok
    assert found["protocols"].ok and "hard-v1" in found["protocols"].detail
    absent = found["data set imagenet-1k"]
    assert absent.ok is None and "image-net.org" in absent.detail
    assert all(finding.detail and "\n" not in finding.detail for finding in found.values())
    assert not list(tmp_path.iterdir())


def test_a_relative_folder_that_is_there_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("results").mkdir()
    assert doctor._place("results", Path("results")).detail == "results, writable"
    assert doctor._place("results", Path("results/more")).detail == "results/more (not there yet), writable"


def test_a_place_that_cannot_be_written_is_broken():
    cache_dir().parent.mkdir(parents=True)
    cache_dir().write_text("a file where the folder should be")
    found = next(doctor._cache())
    assert found.ok is False and "cannot write" in found.detail and not healthy([found])


def test_sizes_are_those_of_the_parts(monkeypatch):
    monkeypatch.delenv("DDBENCH_DATA")
    for part, size in (("synsets", 3 * 1024), ("stages", 5 * 1024**2)):
        (cache_dir() / part / "deep").mkdir(parents=True)
        (cache_dir() / part / "deep" / "file").write_bytes(bytes(size))
    assert [finding.detail for finding in doctor._cache()][1] == "stages 5 MiB, synsets 3 KiB"
    assert folder_size(cache_dir(), limit=1).startswith("at least ")


def test_a_plugin_that_does_not_load_is_named_with_its_reason(monkeypatch, tmp_path):
    (tmp_path / "ddbench_broken_plugin.py").write_text("raise RuntimeError('no such library')")
    monkeypatch.syspath_prepend(str(tmp_path))
    modules = {"gone": "ddbench_nowhere", "broken": "ddbench_broken_plugin"}
    declared = {name: EntryPoint(name, f"{module}:METHOD", "ddbench.methods") for name, module in modules.items()}
    monkeypatch.setattr(plugins, "_declared", lambda group: declared)
    found = group_finding("ddbench.methods", "methods")
    assert found.ok is False
    for text in ("gone", "ddbench_nowhere", "broken", "RuntimeError: no such library"):
        assert text in found.detail


def test_what_a_look_raises_is_a_finding(monkeypatch):
    def _weird():
        yield Finding("lost", True, "")
        raise OSError("strange\nmachine")

    assert doctor._guarded(_weird) == [Finding("weird", False, "OSError: strange machine")]
    monkeypatch.setenv("DDBENCH_THREADS", "many")
    (device,) = doctor._guarded(doctor._device)
    assert device.ok is False and device.name == "device" and "DDBENCH_THREADS" in device.detail


def test_requirements_are_those_of_the_package(monkeypatch):
    stated = ["numpy", "torch==2.9.1", "scipy==1.0; extra == 'scipy'"]
    monkeypatch.setattr(doctor, "requires", lambda package: stated)
    unmet = [("torch", "2.9.1+cpu"), ("torch", "2.10.0"), ("scipy", "1.17")]
    assert [doctor.unmet_requirement("torchvision", *each) for each in unmet] == [None, "==2.9.1", None]


def test_flags_of_the_processor(tmp_path):
    (tmp_path / "cpuinfo").write_text("model name\t: some\nflags\t\t: fpu avx2 amx_bf16\n\nmodel name\t: some\n")
    assert processor_flags(tmp_path / "cpuinfo") == {"fpu", "avx2", "amx_bf16"}
    assert processor_flags(tmp_path / "none") == set()
