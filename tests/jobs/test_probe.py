"""The probe of a dry run: phases with known sleeps, on a clock that knows nothing else; nothing is written."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ddbench import networks
from ddbench.budget import Budget
from ddbench.data.registry import load_dataset
from ddbench.data.spaces import make_space
from ddbench.distillation.task import Task
from ddbench.jobs.probe import OVER, SHORTER, Enough, Probe, brief
from ddbench.synset.teachers import Teacher
from ddbench.training.cache import Cache

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("slept")


def a_probe(seconds: float = 0.1, kind: type = Probe) -> Probe:
    more = {"seconds": seconds} if kind is Probe else {}
    return kind(load_dataset("digits"), Budget(ipc=2), "convnet-d1-w8", 0, CPU, **more)


def nap(loop: Iterator[int], pause: float) -> int:
    """Sleep in every iteration; how many there were."""
    count = 0
    for _ in loop:
        time.sleep(pause)
        count += 1
    return count


def near(found: float, truth: float) -> None:
    assert found == pytest.approx(truth, rel=1e-6)


def test_every_phase_is_timed_and_the_clock_shows_their_sum() -> None:
    probe, started = a_probe(), time.perf_counter()
    began = probe.clock()
    assert nap(probe.loop(0, 10_000, "squeezing"), 0.004) < 60
    assert nap(probe.loop(40, 2_040, "recovering"), 0.01) < 20
    assert nap(probe.loop(0, 5, "short"), 0.002) == 5
    assert time.perf_counter() - started < 10
    near(probe.clock() - began, 40 + 20 + 0.01)
    assert [(phase.label, phase.total) for phase in probe.cut()] == [("squeezing", 10_000), ("recovering", 2_000)]
    assert re.match(r"recovering: 2,000 iterations of 1\d ms \(", probe.cut()[1].words())


def test_a_slow_iteration_is_enough_and_the_first_only_warms_up() -> None:
    probe = a_probe()
    began = probe.clock()
    assert nap(probe.loop(0, 7, "slow"), 0.25) == 1
    near(probe.clock() - began, 1.75)
    began = probe.clock()
    for step in probe.loop(0, 1000, "compiled"):
        time.sleep(0.15 if step == 0 else 0.01)
    near(probe.clock() - began, 10.14)


def test_loops_of_one_label_are_timed_once_and_each_makes_an_iteration() -> None:
    probe = a_probe()
    began = probe.clock()
    made = [nap(probe.loop(0, 500, "squeezing"), 0.01) for _ in range(4)]
    assert made[0] > 5 and made[1:] == [1, 1, 1]
    near(probe.clock() - began, 20)
    (phase,) = probe.cut()
    assert phase.loops == 4 and "2,000 iterations in 4 loops" in phase.words()


def test_a_loop_in_a_loop_counts_whole() -> None:
    probe, started = a_probe(), time.perf_counter()
    began = probe.clock()
    for _ in probe.loop(0, 100, "classes"):
        assert nap(probe.loop(0, 200, "recovering"), 0.01) < 20
    assert time.perf_counter() - started < 10
    near(probe.clock() - began, 200)


def test_what_is_left_early_by_the_method_adds_nothing() -> None:
    probe = a_probe()
    began = probe.clock()
    for step in probe.loop(0, 1000, "until it fits"):
        if step == 3:
            break
    assert probe.clock() - began < 1 and not probe.cut()
    assert nap(probe.loop(0, 0, "nothing"), 0) == 0 and not probe.cut()


@pytest.mark.parametrize("resumed", [True, False])
def test_a_method_that_wants_the_rest_of_a_loop_ends_the_probe(resumed: bool) -> None:
    probe = a_probe()
    began = probe.clock()
    done = nap(probe.loop(0, 1000, "filling"), 0.01)
    seconds = probe.clock() - began
    with pytest.raises(Enough):
        next(probe.loop(done, 1000, "filling") if resumed else probe.loop(0, 1000 - done, "filling"))
    assert probe.clock() - began < seconds + 1 and probe.left_out() == "what follows is left out"


def test_a_probe_of_many_phases_stays_short() -> None:
    probe, started = a_probe(seconds=0.01), time.perf_counter()
    began, count = probe.clock(), 0
    with pytest.raises(Enough):
        while True:
            nap(probe.loop(0, 100, f"class {count}"), 0.005)
            nap(probe.loop(0, 70, "priors"), 0.001)
            count += 1
    assert 0.01 * OVER < time.perf_counter() - started < 0.1 * OVER
    assert count > SHORTER  # late ones are timed by an iteration
    near(probe.clock() - began, count * 0.57 + 0.5)  # it ends between the two loops of a class


def test_stages_and_teachers_stay_in_memory(tmp_path: Path) -> None:
    task, probe = a_probe(kind=Task), a_probe()
    known = task.open_cache("squeeze", {"lr": 1})
    known.save("old", {"x": torch.zeros(1)}, {"teacher": task.keep_teacher(a_teacher(0))})
    known.checkpoint("half").interval = 0.0
    files = sorted(tmp_path.rglob("*"))
    stage = probe.open_cache("squeeze", {"lr": 1})
    assert stage.entries() == ["old"] and probe.recall_teacher(stage.load("old").info["teacher"]).network == "mlp"
    with stage.locked():
        stage.save("new", {}, {"teacher": probe.keep_teacher(a_teacher(1))})
        checkpoint = stage.checkpoint("half")
        checkpoint.interval = 0.0
        checkpoint.save_when_due(lambda: {"step": 1})
        assert checkpoint.load() is None
    again = probe.open_cache("squeeze", {"lr": 1})
    assert again.entries() == ["new", "old"]  # what a probe made is there when it is asked for again
    assert probe.recall_teacher(again.load("new").info["teacher"]).hash == a_teacher(1).hash
    assert task.recall_teacher(a_teacher(1).hash) is None and probe.recall_teacher("0" * 64) is None
    again.drop("new")
    assert again.entries() == ["old"]
    assert sorted(tmp_path.rglob("*")) == files


def a_teacher(seed: int) -> Teacher:
    digits = load_dataset("digits")
    network = networks.create("mlp", channels=1, side=8, classes=10, seed=seed)
    return Teacher(
        "mlp", "digits", digits.train.hash, digits.class_names, 1, 8, make_space("pixel", digits), "0" * 64,
        network.state_dict(),
    )  # fmt: skip


def test_a_real_checkpoint_of_a_stage_is_neither_read_nor_touched() -> None:
    task, probe = a_probe(kind=Task), a_probe()
    real = task.open_cache("squeeze", {}).checkpoint("half")
    real.interval = 0.0
    real.save_when_due(lambda: {"step": 5})
    shown = probe.open_cache("squeeze", {})
    assert isinstance(shown, Cache) and shown.checkpoint("half").load() is None
    shown.save("half", {})
    assert real.load() == {"step": 5}


def test_the_stage_that_a_probe_ended_in_is_named() -> None:
    probe = a_probe()
    with probe.open_cache("outer", {}).locked(), probe.open_cache("inner", {}).locked():
        pass
    assert probe.left_out() == "what follows is left out"
    with pytest.raises(Enough), probe.open_cache("outer", {}).locked():
        with probe.open_cache("inner", {}).locked():
            pass
        raise Enough
    assert probe.left_out() == "the stage 'outer' only, what follows is left out"


def test_durations_are_brief() -> None:
    assert [brief(s) for s in (0.00123, 0.5, 1.26, 1234.0)] == ["1.2 ms", "500 ms", "1.3 s", "1,200 s"]
