"""Records: they come back as they went, nothing malformed gets in, and adding at once loses nothing."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from pydantic import ValidationError

from ddbench.errors import UsageError
from ddbench.hashing import digest
from ddbench.records.record import Record, Run, now
from ddbench.records.store import RecordStore, merge, read_record

ROOT = str(Path(__file__).parents[2])
SET, TEACHER = digest("set"), digest("teacher")


def run(seed=0, **changes):
    plain = {"seed": seed, "synset": SET, "device": "cpu", "precision": "float32", "threads": 1, "build": "2.9.0"}
    return plain | {"status": "ok", "top1": 0.5, "date": "2026-01-31T12:00:00+00:00"} | changes


def failed(seed=0, **changes):
    return run(seed, status="failed", reason="loss is not finite", top1=None) | changes


def value(runs=None, **changes):
    recipe = {"method": "dm", "name": "paper", "hyper": {"lr_img": 1.0}}
    plain = {
        "protocol": "hard-v1",
        "protocol_version": 1,
        "protocol_digest": digest("protocol"),
        "dataset": "digits",
        "budget": {"ipc": 10},
        "student_network": "convnet-d2",
        "distill_network": "convnet-d2",
        "method": "dm",
        "recipe": recipe,
        "synthesis_seed": 0,
        "synsets": {SET: {"images": 100, "bytes": {"images": 6400}, "cost": {"seconds": 1.5}}},
        "teachers": {TEACHER: {"network": "convnet-d2-bn", "accuracy": 0.98}},
        "runs": [run()] if runs is None else runs,
    }
    changed = plain | changes
    return changed if "recipe_hash" in changed else changed | {"recipe_hash": digest(changed["recipe"])}


def record(runs=None, **changes):
    return Record.model_validate(value(runs, **changes))


def test_round_trip(tmp_path):
    full = run(
        1, teacher=TEACHER, top5=0.9, per_class=[0.1, 1.0], snapshots=[{"step": 10, "top1": 0.3}], final_loss=-0.1 / 3
    )
    original = record([run(), full, failed(2, synset=None)], note="größe", supersedes=digest("old"))
    path = RecordStore(tmp_path).add(original)
    assert read_record(path) == original
    assert list(RecordStore(tmp_path)) == [original]


def test_file_is_sorted_indented_and_ends_in_a_newline(tmp_path):
    text = RecordStore(tmp_path).add(record()).read_text()
    assert text == json.dumps(json.loads(text), sort_keys=True, indent=2, ensure_ascii=False) + "\n"
    assert '\n  "budget": {\n    "ipc": 10\n  }' in text


def test_a_summary_is_the_t_interval_of_the_accuracies():
    values = [0.5, 0.52, 0.57]
    ((_, found),) = record([run(n, top1=x) for n, x in enumerate(values)] + [failed(3)]).summary().items()
    low, high = scipy.stats.t.interval(0.95, 2, np.mean(values), scipy.stats.sem(values))
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), low, high)) and found.n == 3
    assert record([failed()]).summary() == {}


@pytest.mark.parametrize(
    "other", [{"threads": 2}, {"code": digest("edited")}, {"teacher": TEACHER}, {"build": "2.10.0"}, {"training": 2}]
)
def test_runs_that_may_not_be_pooled_are_summed_up_apart(other):
    runs = [run(0, top1=0.5, code=digest("code")), run(0, top1=0.7, **{"code": digest("code"), **other})]
    found = record(runs).summary()
    assert [each.mean for each in found.values()] == [0.5, 0.7] and all(next(iter(other)) in name for name in found)
    assert "2 groups" in repr(record(runs))


def test_a_record_reads_as_one_line():
    shown = repr(record([run(0, top1=0.5), run(1, top1=0.6), failed(2)]))
    assert shown == str(record([run(0, top1=0.5), run(1, top1=0.6), failed(2)])) and "\n" not in shown
    for words in ("dm (paper) on digits, IPC 10, hard-v1", "55.0 ±63.5 %, n = 2", "1 without result"):
        assert words in shown
    assert "50.0 %, n = 1" in repr(record()) and "no accuracy" in repr(record([]))


def test_a_frame_has_a_row_for_each_run():
    frame = record([run(0), failed(1)]).to_pandas()
    assert list(frame["seed"]) == [0, 1] and list(frame["status"]) == ["ok", "failed"]
    assert set(frame["method"]) == {"dm"} and set(frame["budget"]) == {"IPC 10"} and frame["top1"][0] == 0.5
    assert list(record([]).to_pandas().columns) == list(frame.columns)


def test_records_are_frozen():
    with pytest.raises(ValidationError):
        record().dataset = "mnist"


MALFORMED = [
    (("surprise",), 1, "surprise"),
    (("schema",), 2, "schema"),
    (("protocol_version",), "1", "protocol_version"),
    (("protocol_version",), True, "protocol_version"),
    (("protocol_digest",), "abc", "protocol_digest"),
    (("dataset",), "../secret", "dataset"),
    (("dataset",), "", "dataset"),
    (("budget",), {"ipc": 0}, "budget"),
    (("budget",), {"ipc": True}, "budget"),
    (("budget",), {"ipc": 1, "all": True}, "budget"),
    (("budget",), {"fraction": 1.5}, "budget"),
    (("budget",), {"all": False}, "budget"),
    (("recipe_hash",), None, "recipe_hash"),
    (("recipe_hash",), digest("other"), "recipe_hash"),
    (("recipe", "hyper", "lr_img"), 2.0, "recipe_hash"),
    (("synthesis_seed",), -1, "synthesis_seed"),
    (("synthesis_seed",), None, "synthesis_seed"),
    (("imported",), digest("x"), "synthesis_seed"),
    (("synsets", SET, "bytes", "images"), -1, "images"),
    (("synsets", SET, "images"), 0, "images"),
    (("synsets", SET, "cost", "seconds"), -1.0, "seconds"),
    (("teachers", TEACHER, "accuracy"), 98.6, "accuracy"),
    (("teachers", "short"), {"network": "x", "accuracy": 0.5}, "short"),
    (("runs", 0, "top1"), 67.3, "runs.0.top1"),
    (("runs", 0, "top1"), -0.1, "runs.0.top1"),
    (("runs", 0, "top1"), "0.6", "runs.0.top1"),
    (("runs", 0, "top1"), None, "runs.0"),
    (("runs", 0, "top1"), True, "runs.0.top1"),
    (("runs", 0, "top5"), 0.2, "top5"),
    (("runs", 0, "per_class"), [0.5, 1.5], "runs.0.per_class.1"),
    (("runs", 0, "status"), "great", "runs.0.status"),
    (("runs", 0, "status"), "failed", "reason"),
    (("runs", 0, "status"), "n/a", "reason"),
    (("runs", 0, "device"), "tpu", "runs.0.device"),
    (("runs", 0, "threads"), 0, "runs.0.threads"),
    (("runs", 0, "seconds"), -1.0, "runs.0.seconds"),
    (("runs", 0, "date"), "yesterday", "runs.0.date"),
    (("runs", 0, "date"), "2026-01-31T12:00:00+02:00", "runs.0.date"),
    (("runs", 0, "synset"), digest("other"), "runs.0.synset"),
    (("runs", 0, "synset"), None, "runs.0"),
    (("runs", 0, "teacher"), digest("other"), "runs.0.teacher"),
    (("runs", 0, "colour"), "red", "runs.0.colour"),
    (("runs", 1), run(), "identity"),
]


@pytest.mark.parametrize(("where", "bad", "field"), MALFORMED)
def test_malformed_is_refused_with_file_and_field(tmp_path, where, bad, field):
    broken = copy.deepcopy(value())
    part = broken
    for name in where[:-1]:
        part = part[name]
    if isinstance(part, list) and where[-1] == len(part):
        part.append(bad)
    else:
        part[where[-1]] = bad
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(broken))
    with pytest.raises(UsageError) as caught:
        read_record(path)
    message = str(caught.value)
    assert str(path) in message and field in message and "\n" not in message


@pytest.mark.parametrize("name", ["protocol", "runs.0.status", "recipe_hash", "runs.0.date"])
def test_missing_field_is_named(tmp_path, name):
    broken = copy.deepcopy(value())
    part = broken["runs"][0] if name.startswith("runs") else broken
    del part[name.split(".")[-1]]
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(broken))
    with pytest.raises(UsageError, match=name):
        read_record(path)


def test_more_problems_are_counted():
    broken = value([run(top1=2.0, threads=0, seconds=-1.0)])
    with pytest.raises(UsageError, match=r"x.json: runs.0.*; and 2 more$"):
        Record.from_json(json.dumps(broken), "x.json")


TEXTS = ["", "{", "[]", "null", '{"note": "a", "note": "b"}', "[" * 5000, '{"budget": NaN}']


@pytest.mark.parametrize("content", [*(text.encode() for text in TEXTS), b"\xff\xfe\x00"])
def test_what_is_no_record_is_refused(tmp_path, content):
    (tmp_path / "broken.json").write_bytes(content)
    for read in (lambda: read_record(tmp_path / "broken.json"), lambda: list(RecordStore(tmp_path))):
        with pytest.raises(UsageError, match=r"broken\.json"):
            read()


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_are_finite(number):
    for broken in (value([run(final_loss=number)]), value(recipe={"lr": number}, recipe_hash=digest(0))):
        with pytest.raises(UsageError):
            Record.from_json(json.dumps(broken), "file")
        with pytest.raises(ValidationError):
            Record.model_validate(broken)


def test_now_is_a_date_of_a_run():
    assert Run.model_validate(run(date=now())).date.endswith("+00:00")


def test_key_has_the_fields_that_identify():
    base = record().key_hash()
    same = [{"note": "x"}, {"runs": []}]
    other = [
        {"protocol": "soft-v1"},
        {"protocol_version": 2},
        {"dataset": "mnist"},
        {"budget": {"ipc": 1}},
        {"student_network": "mlp"},
        {"distill_network": None},
        {"student_recipe_hash": digest(1)},
        {"method": "datadam"},
        {"recipe": {"name": "other"}},
        {"borrowed": "datadam"},
        {"synthesis_seed": 1},
    ]
    assert all(record(**changes).key_hash() == base for changes in same)
    hashes = [record(**changes).key_hash() for changes in other]
    assert len({base, *hashes}) == len(other) + 1


def test_an_imported_set_stands_in_for_recipe_and_seed():
    imported = record(imported=SET, synthesis_seed=None)
    again = record(imported=SET, synthesis_seed=None, recipe={"name": "else"})
    assert imported.key() == again.key() != record().key()
    assert imported.group_key() == imported.key()


def test_group_key_is_shared_by_synthesis_seeds():
    assert record(synthesis_seed=0).group_key() == record(synthesis_seed=4).group_key()


def test_adding_seeds_merges_runs(tmp_path):
    store = RecordStore(tmp_path)
    store.add(record([run(1)]))
    path = store.add(record([run(0), run(2, build="2.10.0")]))
    assert len(store.paths()) == 1
    assert {r.identity() for r in read_record(path).runs} == {
        Run.model_validate(r).identity() for r in (run(0), run(1), run(2, build="2.10.0"))
    }


def test_the_file_does_not_tell_who_came_first(tmp_path):
    one, other = RecordStore(tmp_path / "a"), RecordStore(tmp_path / "b")
    for seed in (0, 1, 2):
        first = one.add(record([run(seed)]))
    for seed in (2, 0, 1):
        second = other.add(record([run(seed)]))
    assert first.read_bytes() == second.read_bytes()


def test_the_stored_run_stays_unless_it_failed_and_a_retry_is_asked_for(tmp_path):
    store = RecordStore(tmp_path)

    def stored(new, **how):
        store.add(record([new]), **how)
        (one,) = store.find(record().key()).runs
        return one.status, one.top1

    assert stored(failed()) == stored(run(top1=0.5)) == ("failed", None)
    assert stored(run(top1=0.5), retry_failed=True) == ("ok", 0.5)
    assert stored(run(top1=0.9), retry_failed=True) == stored(failed(), retry_failed=True) == ("ok", 0.5)


def test_a_run_that_never_began_gives_way_however_its_students_come_to_be_trained():
    before_its_set = failed(synset=None)  # neither stacked nor compiled: that was not decided yet
    (again,) = merge(record([before_its_set]), record([run(stacked=True, compiled=True)]), retry_failed=True).runs
    assert again.status == "ok"


def test_a_cell_excluded_by_definition_stays(tmp_path):
    excluded = run(status="n/a", reason="needs two images per class", top1=None, synset=None)
    assert merge(record([excluded]), record([failed(synset=None)]), retry_failed=True).runs[0].status == "n/a"


def test_facts_are_united_and_the_stored_ones_stay():
    other = digest("other set")
    facts = {"images": 100, "bytes": {"images": 1}}
    changed = value()["synsets"] | {other: facts}
    changed[SET] = facts
    merged = merge(record(), record([run(1, synset=other)], synsets=changed, teachers={}))
    assert merged.synsets[SET].bytes == {"images": 6400}
    assert merged.synsets[other].bytes == {"images": 1}
    assert list(merged.teachers) == [TEACHER]
    assert Record.from_json(merged.to_json(), "merged") == merged


def test_another_record_is_not_merged():
    with pytest.raises(UsageError, match=r"file: holds another record: dataset, method differ"):
        merge(record(), record(dataset="mnist", method="dc"), where="file")


def test_a_file_in_the_place_of_another_is_an_error(tmp_path):
    store = RecordStore(tmp_path)
    path = store.add(record())
    path.write_text(record(synthesis_seed=1).to_json())
    with pytest.raises(UsageError, match="synthesis_seed differ"):
        store.add(record())
    with pytest.raises(UsageError, match="synthesis_seed differ"):
        store.find(record().key())


def test_a_protocol_changed_under_its_version_is_an_error(tmp_path):
    store = RecordStore(tmp_path)
    store.add(record())
    with pytest.raises(UsageError, match="protocol_digest"):
        store.add(record([run(1)], protocol_digest=digest("changed")))


def test_a_corrupted_record_is_named_and_not_overwritten(tmp_path):
    store = RecordStore(tmp_path)
    path = store.add(record())
    path.write_text(path.read_text()[:-40])
    before = path.read_bytes()
    for action in (lambda: list(store), lambda: store.add(record()), lambda: store.find(record().key())):
        with pytest.raises(UsageError, match=path.name):
            action()
    assert path.read_bytes() == before


def test_hidden_files_and_folders_are_no_records(tmp_path):
    store = RecordStore(tmp_path)
    path = store.add(record())
    (path.parent / ".half.json").write_text("{")
    (tmp_path / ".trash").mkdir()
    (tmp_path / ".trash" / "old.json").write_text("{")
    (path.parent / "notes.txt").write_text("hello")
    assert store.paths() == [path]


def test_a_store_that_is_not_there_is_empty(tmp_path):
    store = RecordStore(tmp_path / "none")
    assert list(store) == [] and store.find(record().key()) is None
    assert not (tmp_path / "none").exists()


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="folder of records"):
        list(RecordStore(tmp_path / "file"))
    with pytest.raises(UsageError):
        RecordStore(tmp_path / "file").add(record())


@pytest.mark.parametrize("name", ["cats@0123abcd", "a:b*c?", "..", ".hidden", "ünïcode", "x" * 200])
def test_names_stay_inside_the_store(tmp_path, name):
    store = RecordStore(tmp_path)
    odd = record(dataset=name, method=name.replace("..", "../.."), student_network="timm:" + name[:20])
    path = store.add(odd)
    assert path.resolve().is_relative_to(tmp_path.resolve())
    assert len(path.relative_to(tmp_path).parts) == 3 and len(path.name) < 200
    assert list(store) == [odd]


def test_names_that_look_alike_as_files_are_kept_apart(tmp_path):
    store = RecordStore(tmp_path)
    store.add(record(method="a:b"))
    store.add(record(method="a*b"))
    assert sorted(r.method for r in store) == ["a*b", "a:b"]


def test_path_says_what_the_record_is(tmp_path):
    made = record(student_network="convnet-d3")
    path = RecordStore(tmp_path).path(made.key()).relative_to(tmp_path)
    assert path == Path("digits/hard-v1") / f"dm_ipc10_convnet-d3_{made.key_hash()[:12]}.json"


ADD_RUNS = """
import sys
from pathlib import Path
from ddbench.records.record import Record
from ddbench.records.store import RecordStore
text = Path(sys.argv[2]).read_text()
template = Record.from_json(text, sys.argv[2])
for seed in range(int(sys.argv[3]), 40, 2):
    run = template.runs[0].model_copy(update={"seed": seed})
    RecordStore(sys.argv[1]).add(template.model_copy(update={"runs": [run]}))
"""


def test_two_processes_adding_at_once_lose_nothing(tmp_path):
    template = tmp_path / "template.json"
    template.write_text(record().to_json())
    commands = [[sys.executable, "-c", ADD_RUNS, tmp_path / "store", template, str(start)] for start in (0, 1)]
    workers = [subprocess.Popen(command, env=os.environ | {"PYTHONPATH": ROOT}) for command in commands]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    assert [r.seed for r in next(iter(RecordStore(tmp_path / "store"))).runs] == list(range(40))
