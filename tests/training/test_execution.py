"""Precision and compiling: what they change, what they leave alone, and how they are chosen."""

from pathlib import Path

import pytest
import torch
from grids import toy_grid
from torch._dynamo.testing import CompileCounter

import ddbench
from ddbench import networks
from ddbench.api import setting
from ddbench.data.registry import load_dataset
from ddbench.errors import UsageError
from ddbench.evaluation.protocol import find_protocol
from ddbench.records.store import RecordStore, read_record
from ddbench.training import compute, precision
from ddbench.training.compute import Compute, repays
from ddbench.training.loop import train
from ddbench.training.precision import Execution, chosen_precision
from ddbench.training.recipe import StudentRecipe


def recipe(**changes):
    sgd = {"name": "sgd", "lr": 0.05, "momentum": 0.9}
    return StudentRecipe.model_validate(
        {"network": "convnet-d1-w8", "optimizer": sgd, "epochs": 6, "batch": 12, **changes}
    )


def data(count=30):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 1, 8, 8, generator=generator), torch.arange(count) % 10


def network():
    return networks.create("convnet-d1-w8", channels=1, side=8, classes=10, seed=1)


def trained(how=None):
    student, (images, classes) = network(), data()
    done = train(student, images, classes, recipe(), seed=0, execution=how)
    return done.final_loss, torch.cat([weights.detach().flatten() for weights in student.parameters()])


def test_float32_as_written_is_the_network_itself():
    student = network()
    assert Execution().forward(student) is student


def test_bf16_multiplies_in_bfloat16_and_keeps_the_rest_in_float32():
    student, (images, classes) = network(), data()
    forward, seen = Execution("bf16").forward(student), []
    hook = student.head.register_forward_hook(lambda module, given, found: seen.append(found.dtype))
    logits = forward(images)
    hook.remove()
    assert seen == [torch.bfloat16] and logits.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(logits, student(images).float())
    torch.nn.functional.cross_entropy(logits, classes).backward()
    assert all(weights.dtype == weights.grad.dtype == torch.float32 for weights in student.parameters())
    assert 0 < (logits - student(images)).abs().max() < 0.05

    loss, weights = trained()
    half_loss, half_weights = trained(Execution("bf16"))
    assert half_loss != loss and half_loss == pytest.approx(loss, rel=0.05)
    assert 0 < (half_weights - weights).norm() < 0.05 * weights.norm()


def test_measured_records_have_admitted_precisions():
    """A precision other than float32 comes into results/measured when `benchmarks/equivalence.py` has admitted it."""
    kept = RecordStore(Path(__file__).parents[2] / "results" / "measured")
    found = {(run.precision, run.device) for record in kept for run in record.runs}
    assert found and all(precision.admitted(*each) for each in found)


def test_compiled_steps_are_the_same_steps():
    loss, weights = trained()
    compiled_loss, compiled_weights = trained(Execution(compiled=True))
    assert compiled_loss == pytest.approx(loss, rel=1e-4)
    torch.testing.assert_close(compiled_weights, weights, rtol=1e-3, atol=1e-4)


def test_words_are_checked(monkeypatch):
    assert chosen_precision("float32", "cpu") == "float32" and chosen_precision("bf16", "cpu") == "bf16"
    monkeypatch.setattr(precision, "_has_bf16", lambda device: device == "cpu")
    monkeypatch.setattr(precision, "ADMITTED", {"bf16": ("cpu",)})
    assert chosen_precision("auto", "cpu") == "bf16" and chosen_precision("auto", "cuda") == "float32"
    assert chosen_precision("bf16", "cuda") == "bf16"  # of other machines, where there is none here
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(precision, "ADMITTED", {})
    assert chosen_precision("auto", "cpu") == "float32"
    with pytest.raises(UsageError, match="this CUDA device does not compute in it"):
        chosen_precision("bf16", "cuda")
    with pytest.raises(UsageError, match="unknown precision 'fp16': allowed are float32, bf16, auto"):
        setting(precision="fp16")
    with pytest.raises(UsageError, match="unknown word for compiling 'yes': allowed are auto, on, off"):
        setting(compile="yes")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(precision.shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match=r"compile on: there is no C\+\+ compiler \(g\+\+ or clang\+\+\)"):
        setting(compile="on")
    assert setting(compile="auto").compile == "off"  # said once, by the driver: no seed of a cell decides it anew
    with pytest.raises(UsageError, match="compile on: there is no"):  # a worker's machine, where the driver's has one
        Compute(compile="on").execution(*large()[:3])


def large():
    """A training that would take an hour."""
    digits = load_dataset("digits")
    return recipe(network="convnet-d2-w128", epochs=1_000_000, max_steps=1_000_000), digits, 100, "cpu"


def test_the_environment_sets_defaults(monkeypatch):
    assert (setting().precision, setting().compile, setting().stack) == ("float32", "off", False)
    monkeypatch.setenv("DDBENCH_PRECISION", "bf16")
    monkeypatch.setenv("DDBENCH_COMPILE", "auto")
    assert (setting().precision, setting().compile) == ("bf16", "auto")
    assert setting(precision="float32").precision == "float32"
    monkeypatch.setenv("DDBENCH_COMPILE", "maybe")
    with pytest.raises(UsageError, match="DDBENCH_COMPILE='maybe': allowed are auto, on, off"):
        setting()


def test_operations_are_counted_by_hand():
    digits = load_dataset("digits")
    convolutions = 64 * 9 * 1 * 8 + 16 * 9 * 8 * 8  # pixels x kernel x inputs x outputs
    assert compute._flops("convnet-d2-w8", digits) == 2 * (convolutions + 8 * 4 * 10)


def test_auto_compiles_what_repays_it():
    assert repays(*large(), 1) and not repays(*large(), 10_000)
    hard = find_protocol("hard-v1").student(load_dataset("digits"))
    assert not repays(hard, load_dataset("digits"), 100, "cpu", 1)
    assert not repays(*large()[:3], "cuda", 1)
    assert Compute(compile="auto").execution(*large()[:3]).compiled
    assert not Compute(compile="auto").execution(hard, load_dataset("digits"), 100).compiled


def sweep(how, seeds):
    return ddbench.sweep(toy_grid(seeds=seeds, setting=how))


def stored(report):
    return {run.seed: run.compiled for path in report.records for run in read_record(path).runs}


def test_seeds_that_auto_adds_are_compiled_as_those_before(toys, monkeypatch):
    sweep(Compute(), (0, 1))
    monkeypatch.setattr("ddbench.training.compute.repays", lambda *args: True)
    report = sweep(Compute(compile="auto"), (0, 1, 2))
    assert (report.reused, report.done) == (2, 1)
    assert stored(report) == {0: False, 1: False, 2: False}


def test_a_run_says_how_it_was_computed_and_sets_do_not_depend_on_it(toys):
    sweep(Compute(), (0,))
    report = sweep(Compute(precision="bf16", stack=True), (0,))
    assert (report.reused, report.done) == (0, 1) and toys.count("distill") == 1
    (path,) = report.records
    ours = read_record(path)
    assert {(run.precision, run.stacked) for run in ours.runs} == {("float32", False), ("bf16", True)}
    assert len({run.synset for run in ours.runs}) == 1
    assert sweep(Compute(precision="bf16", stack=True), (0,)).reused == 1


def test_more_variants_than_torch_keeps_are_compiled_all_the_same():
    """Networks of the suite share a forward, so that its variants are those of all members and sizes together."""
    count = CompileCounter()
    members = [networks.create(f"convnet-d1-w{4 + i}", channels=1, side=4, classes=2) for i in range(10)]
    calls = [precision.compiled(network, backend=count) for network in members]
    for call in calls:
        call(torch.zeros(2, 1, 4, 4))
    assert count.frame_count == 10
