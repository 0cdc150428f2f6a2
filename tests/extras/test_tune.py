"""Tuning: the choice is right, test is never read, the budget is counted, and a stopped search goes on."""

import json
import tomllib
from dataclasses import dataclass, replace
from typing import Any, Literal

import pytest
import torch
from pydantic import Field

from ddbench import plugins
from ddbench.budget import Budget
from ddbench.data.dataset import Split
from ddbench.data.registry import load_dataset
from ddbench.distillation.method import Hyper, Method
from ddbench.distillation.recipes import family, resolve
from ddbench.errors import JobFailed, UsageError
from ddbench.evaluation.protocol import Protocol, Tier
from ddbench.extras.tune import draw, held_out, parse_grid, tune
from ddbench.extras.tune.recipe_file import toml_value
from ddbench.jobs.job import DataName
from ddbench.progress import Reporter
from ddbench.settings import cache_dir

SGD = {"name": "sgd", "lr": 0.05, "momentum": 0.9}
STUDENT = {"network": "convnet-d1-w16", "optimizer": SGD, "epochs": 20, "batch": 20}
TOY = Protocol("toy-v1", 1, "for tests", tiers=(Tier(None, STUDENT),))


class ToyHyper(Hyper):
    init: Literal["real", "noise", "broken", "bug"] = "real"
    scale: float = Field(1.0, gt=0)
    name: str = 'a "quoted" \\ text'
    sizes: tuple[int, ...] = (1, 2)
    limit: int | None = None


CALLS = []


def distill(task, hyper):
    """Real images, scaled, or noise in their place."""
    CALLS.append((hyper.init, hyper.scale))
    if hyper.init == "broken":
        raise JobFailed("the toy diverged")
    if hyper.init == "bug":
        raise ZeroDivisionError("a bug")
    space = task.space("normalised")
    images, _ = task.tensors(space)
    chosen = torch.cat([places[: task.ipc] for places in task.class_indices()])
    classes = torch.arange(10).repeat_interleave(task.ipc)
    made = images[chosen] * hyper.scale
    if hyper.init == "noise":
        made = torch.randn(made.shape, generator=task.rng("noise"))
    return task.synset(space=space, classes=classes, images=made)


METHOD = Method("toy", ToyHyper, distill)


@dataclass(frozen=True)
class Given(DataName):
    """A data set that has no name to be loaded by."""

    dataset: Any = None

    def load(self):
        return self.dataset


def never(indices):
    raise AssertionError("the test split was read")


@pytest.fixture(autouse=True)
def toy_plugins(monkeypatch):
    find, own = plugins.find, {"toy-v1": TOY, "toy": METHOD}
    monkeypatch.setattr(plugins, "find", lambda group, name: own.get(name) or find(group, name))
    CALLS.clear()


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture
def data(digits):
    test = Split(digits.test.labels, digits.test.hash, True, never)
    return Given("digits", dataset=replace(digits, test=test))


def search(data, grid, **more):
    return tune(METHOD, data, Budget(2), **{"grid": grid, "protocol": "toy-v1", "seeds": (0, 1), **more})


def test_the_better_candidate_wins_on_held_out_images_and_test_is_never_read(data, tmp_path):
    found = search(data, {"init": ["noise", "real"]}, out=tmp_path / "tuned.toml")
    noise, real = found.candidates
    assert found.winner is real
    assert real.mean > noise.mean + 0.2 and real.mean == pytest.approx(sum(real.top1) / 2)
    low, high = real.interval()
    assert low <= real.mean <= high
    assert (found.trainings, found.reused) == (4, 0)
    assert found.seconds == pytest.approx(noise.seconds + real.seconds)


def test_the_recipe_file_gives_the_winner_for_the_whole_split(data, tmp_path):
    path = tmp_path / "tuned.toml"
    found = search(data, {"init": ["real", "noise"], "scale": [0.9]}, out=path, overrides={"sizes": (3,)})
    assert path.read_text() == found.recipe and found.path == path
    resolved = resolve(METHOD, data.dataset, Budget(2), recipe=str(path))
    assert resolved.hyper == ToyHyper(init="real", scale=0.9, sizes=(3,)) and resolved.name == "tuned"
    source = tomllib.loads(found.recipe)["recipe"][0]["source"]
    for text in ("0.2 of the training split of digits", "2 candidates under toy-v1", "seeds 0, 1;", "4 trainings"):
        assert text in source


def test_a_search_that_was_stopped_goes_on_with_what_is_left(data):
    class Stop(Reporter):
        def advance(self, label, done, total):
            if label == "candidates" and done == 2:
                raise KeyboardInterrupt

    grid = {"scale": [1.0, 0.5, 0.25]}
    with pytest.raises(KeyboardInterrupt):
        search(data, grid, reporter=Stop())
    found = search(data, grid)
    assert CALLS == [("real", 1.0), ("real", 0.5), ("real", 0.25)]
    assert found.reused == 2 and found.trainings == 6
    CALLS.clear()
    wider = search(data, {"scale": [0.125, 0.25, 0.5, 1.0]})
    assert CALLS == [("real", 0.125)] and wider.reused == 3
    scores, more = ({c.values["scale"]: c.top1 for c in report.candidates} for report in (found, wider))
    assert scores.items() <= more.items()
    CALLS.clear()
    search(data, {"scale": [1.0]}, seeds=(0,))
    assert CALLS == [("real", 1.0)], "another number of seeds is another score"


def test_kept_candidates_that_are_damaged_are_tried_again(data):
    first = search(data, {"scale": [1.0]})
    (kept,) = (cache_dir() / "tune").glob("*.json")
    assert len(json.loads(kept.read_text())) == 1
    kept.write_text(kept.read_text()[:40])
    again = search(data, {"scale": [1.0]})
    assert again.reused == 0 and again.candidates[0].top1 == first.candidates[0].top1


@pytest.mark.filterwarnings("ignore")
def test_a_candidate_that_fails_is_kept_with_its_reason_and_cannot_win(data):
    found = search(data, {"init": ["broken", "bug", "noise"]})
    broken, bug, noise = found.candidates
    assert broken.reason == "the toy diverged" and bug.reason == "ZeroDivisionError: a bug"
    assert broken.mean is None and broken.interval() is None and found.winner is noise and found.trainings == 2
    with pytest.raises(JobFailed, match="every candidate failed; the first: the toy diverged"):
        search(data, {"init": ["broken"]})


def test_the_holdout_is_stratified_fixed_and_apart(digits):
    held = held_out(digits, 0.25)
    counts = digits.train.labels.bincount()
    assert held.test.labels.bincount().tolist() == [round(0.25 * int(n)) for n in counts]
    assert len(held.train) + len(held.test) == len(digits.train)
    rows = sorted(image.numpy().tobytes() for split in (held.train, held.test) for image in split.read())
    assert rows == sorted(image.numpy().tobytes() for image in digits.train.read())
    again = held_out(digits, 0.25)
    assert (held.train.hash, held.test.hash) == (again.train.hash, again.test.hash)
    assert held.train.hash != digits.train.hash and family(held.id) == "digits"
    folder = held_out(replace(digits, id="mine@0123abcd"), 0.25)
    assert folder.id == "mine@0123abcd-holdout" and family(folder.id) == "mine"


def test_a_split_that_is_read_from_files_is_held_out_without_being_read(digits):
    reads = []

    def read(indices):
        reads.append(len(indices))
        return digits.train.read(indices)

    streamed = replace(digits, train=Split(digits.train.labels, digits.train.hash, False, read))
    held, resident = held_out(streamed, 0.25), held_out(digits, 0.25)
    assert not reads
    places = torch.tensor([5, 0, 7])
    assert torch.equal(held.test.read(places), resident.test.read(places)) and reads == [3]
    assert torch.equal(held.train.labels, resident.train.labels) and held.train.hash != held.test.hash


def test_combinations_are_in_order_or_drawn_by_key_without_repetition():
    grid = {"a": [1, 2], "b": ["x", "y", "z"]}
    everything = draw(grid, None, 0)
    assert everything == [{"a": a, "b": b} for a in (1, 2) for b in ("x", "y", "z")]
    drawn = draw(grid, 4, 7)
    assert drawn == draw(grid, 4, 7) and len(drawn) == 4
    assert all(drawn.count(one) == 1 and one in everything for one in drawn)
    assert draw(grid, 99, 7) == everything
    assert {json.dumps(draw(grid, 2, seed)) for seed in range(5)} != {json.dumps(drawn)}


def test_grids_are_read_by_the_types_of_the_fields():
    words = ["init=real,noise", "scale=1,0.5", "sizes=[[1], [2, 3]]", "limit=[null, 4]"]
    values = [["real", "noise"], [1.0, 0.5], [(1,), (2, 3)], [None, 4]]
    assert parse_grid(METHOD, words) == dict(zip(("init", "scale", "sizes", "limit"), values, strict=True))
    for word, match in [
        ("scale", "KEY=VALUE"),
        ("scale=", "KEY=VALUE"),
        ("scal=1", "did you mean scale"),
        ("scale=1,big", "valid number"),
        ("init=real,fake", "Input should be"),
        ("sizes=[1", "not a JSON list"),
        ("scale=1 scale=2", "given twice"),
    ]:
        with pytest.raises(UsageError, match=match):
            parse_grid(METHOD, word.split())


def test_bad_input_is_refused_before_anything_runs(data, tmp_path):
    for grid, more, match in [
        ({}, {}, "needs values"),
        ({"scale": []}, {}, "needs values to try for scale"),
        ({"scale": [1.0, 1.0]}, {}, "twice"),
        ({"scale": [-1.0]}, {}, "scale: Input should be greater than 0"),
        ({"scales": [1.0]}, {}, "did you mean scale"),
        ({"scale": [1.0]}, {"trials": 0}, "trials must be at least 1"),
        ({"scale": list(range(1, 20_000))}, {}, "at most 10,000"),
        ({"scale": [1.0]}, {"seeds": ()}, "at least one evaluation seed"),
        ({"scale": [1.0]}, {"holdout": 1.5}, "inside"),
        ({"scale": [1.0]}, {"protocol": "toy-v2"}, "unknown protocol"),
        ({"scale": [1.0]}, {"network": "convnet-d9"}, "convnet"),
    ]:
        with pytest.raises(UsageError, match=match):
            search(data, grid, **more)
    with pytest.raises(UsageError, match="above the size of class"):
        tune(METHOD, data, Budget(130), grid={"scale": [1.0]}, protocol="toy-v1")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot"):
        search(data, {"scale": [1.0]}, out=tmp_path / "file" / "tuned.toml")
    assert not CALLS


@pytest.mark.parametrize("value", [True, 3, 1e-5, 1e22, 'a "b" \\ \n é \x7f', [1, 2.5, "x"], {"a b": {"c": [False]}}])
def test_values_survive_toml(value):
    assert tomllib.loads(f"key = {toml_value(value)}") == {"key": value}
