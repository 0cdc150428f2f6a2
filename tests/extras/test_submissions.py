"""Submissions: what is written reads back, and whatever a pull request must not hold is named, file by file."""

import json
import os
import shutil
from pathlib import Path

import pytest
from command import ddbench, done
from submitted_records import FILE, OTHER, SET, WORDS, a_run, value
from submitted_records import submitted as record

from ddbench import distill, evaluate
from ddbench.errors import UsageError
from ddbench.extras.submit import check_submissions, claim, file_sha256, shared_product, shared_set, submit
from ddbench.hashing import digest
from ddbench.records.record import Record
from ddbench.records.store import LARGEST, RecordStore, merge, read_record
from ddbench.training.sealed import write_sealed


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


def add(results, one, folder="submitted"):
    return RecordStore(results / folder).add(one)


def only(results, base=None):
    """The one problem there is, as text."""
    (problem,) = check_submissions(results, base)
    assert str(problem).isprintable() and str(problem).endswith(problem.text)
    return problem.text


def test_a_claim_is_part_of_the_record_and_records_without_one_keep_their_text():
    one = record()
    assert Record.from_json(one.to_json(), "again") == one
    plain = record(submission=None)
    assert "submission" not in json.loads(plain.to_json()) and plain.key_hash() == one.key_hash()
    assert Record.from_json(plain.to_json(), "again") == plain


def test_records_of_the_repository_read_and_gain_no_field():
    root = Path(__file__).parents[2] / "results" / "measured"
    paths = RecordStore(root).paths()
    assert len(paths) > 100
    for path in paths[::20]:
        text = path.read_text(encoding="utf-8")
        assert json.loads(read_record(path).to_json()) == {"lender": None, **json.loads(text)}  # it came later


BAD_CLAIMS = {
    "no author": ({"authors": []}, "authors"),
    "no licence": ({"licence": ""}, "licence"),
    "licence in prose": ({"licence": "do what you like!"}, "licence"),
    "no file": ({"files": {}}, "files"),
    "unknown field": ({"password": "x"}, "password"),
    "hidden character": ({"name": "Mine\u202e"}, "name"),
    "escape": ({"authors": ["\x1b[31mred"]}, "authors"),
    "long name": ({"name": "x" * 501}, "name"),
    "code by http": ({"code": "http://example.org"}, "code"),
    "code by script": ({"code": "javascript:alert(1)"}, "code"),
    "paper with password": ({"paper": "https://me:secret@example.org"}, "paper"),
    "file of another set": ({"files": {OTHER: FILE}}, "no such set"),
    "file without size": ({"files": {SET: {**FILE, "size": 0}}}, "size"),
    "file too large": ({"files": {SET: {**FILE, "size": 2**41}}}, "size"),
    "address that leaves": ({"files": {SET: {**FILE, "address": "file:../../etc/passwd"}}}, "address"),
    "set as an entry": ({"files": {SET: {**FILE, "entry": f"experts/{'0' * 32}/0-1"}}}, "entry"),
    "entry that leaves": ({"files": {SET: {**FILE, "kind": "experts", "entry": f"../{'0' * 32}/x"}}}, "entry"),
    "appeal against nothing": ({"appeal": "mine is better"}, "appeal"),
}


@pytest.mark.parametrize("case", BAD_CLAIMS)
def test_a_claim_that_cannot_be_is_refused_by_field(case):
    change, field = BAD_CLAIMS[case]
    with pytest.raises(UsageError) as caught:
        record(submission={**WORDS, "files": {SET: FILE}, **change})
    assert field in str(caught.value) and "\n" not in str(caught.value)


def test_a_sound_submission_has_no_problem(results):
    assert check_submissions(results) == []
    add(results, record())
    assert check_submissions(results) == [] == check_submissions(results, results)


WRONG = {
    "nobody": ({"submission": None}, "who claims"),
    "another digest": ({"protocol_digest": digest(0)}, "not the protocol"),
    "unknown protocol": ({"protocol": "hard-v9"}, "hard-v9"),
    "unknown data set": ({"dataset": "digit"}, "did you mean digits"),
    "unknown network": ({"student_network": "convent"}, "convent"),
    "network from the hub": ({"student_network": "timm:hf-hub:a/b"}, "hf-hub"),
    "chosen seeds": ({"runs": [a_run(seed) for seed in (0, 1, 7)]}, "none chosen"),
    "two seeds": ({"runs": [a_run(seed) for seed in range(2)]}, "at least 3"),
    "no run": ({"runs": []}, "no run"),
    "precision": ({"runs": [a_run(seed, precision="tf32") for seed in range(3)]}, "tf32 on cpu is not admitted"),
    "changed checkout": ({"runs": [a_run(seed, dirty=True) for seed in range(3)]}, "dirty"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_stand_is_named(case, results):
    change, words = WRONG[case]
    add(results, record(**change))
    assert words in only(results)


def test_a_failed_seed_counts_and_a_set_without_a_file_is_named(results):
    failed = a_run(2, None, status="failed", reason="diverged", synset=None)
    add(results, record(runs=[a_run(0), a_run(1), failed]))
    assert check_submissions(results) == []
    facts = value()["synsets"] | {OTHER: value()["synsets"][SET]}
    add(results, record(synsets=facts, budget={"ipc": 20}, runs=[a_run(0), a_run(1), a_run(2, synset=OTHER)]))
    assert f"set {OTHER[:12]} has no file" in only(results)


def test_each_file_must_be_a_record_of_ours_at_its_place(results):
    path = add(results, record())
    text = path.read_text()
    for broken, words in (
        (text.replace('"hard-v1"', '"hard-v1 "', 1), "belongs at"),
        (json.dumps(json.loads(text)), "not written as records are"),
        (text + "\n", "not written as records are"),
        (text[:-30], "JSON"),
        (" " * (LARGEST + 1), "too large"),
    ):
        path.write_text(broken)
        assert words in only(results)
    path.write_text(text)
    moved = path.with_name("other.json")
    path.rename(moved)
    assert "belongs at" in only(results)


@pytest.mark.parametrize("name", ["evil.py", ".hidden", "x.pkl", "digits/setup.sh", "a\n::error::b"])
def test_nothing_but_records_belongs_there(results, name):
    path = results / "submitted" / name
    path.parent.mkdir(parents=True)
    path.write_text("import os")
    assert "only records belong here" in only(results)


def test_links_are_not_followed(results, tmp_path):
    path = add(results, record())
    elsewhere = tmp_path / "elsewhere.json"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert "no links" in only(results)
    path.unlink()
    (results / "submitted" / "away").symlink_to(tmp_path)
    assert "no links" in only(results)
    shutil.rmtree(results / "submitted")
    (results / "submitted").symlink_to(tmp_path)
    assert only(results) == "no folder"


def test_a_file_beside_the_record_must_be_the_stated_one(results):
    one = record(submission={**WORDS, "files": {SET: {**FILE, "address": "file:a.json", "size": 18}}})
    path = add(results, one)
    assert "no such file" in only(results)
    os.symlink("/etc/passwd", path.with_name("a.json"))
    assert any("no such file" in problem.text for problem in check_submissions(results))


# --- appeals


def an_appeal(top1=0.6, **changes):
    old = record(submission=None)
    claimed = {**WORDS, "files": {SET: FILE}, "appeal": "more iterations"}
    runs = [a_run(seed, top1) for seed in range(3)]
    return record(
        **{"supersedes": old.key_hash(), "recipe": {"name": "tuned"}, "runs": runs, "submission": claimed} | changes
    )


def test_an_appeal_supersedes_and_the_old_record_stays(results):
    old = add(results, record(submission=None), "measured")
    before = old.read_bytes()
    add(results, an_appeal())
    assert check_submissions(results) == [] and old.read_bytes() == before


APPEALS = {
    "no better": ({"top1": 0.5}, "without being better: 0.5000 against 0.5000"),
    "another method": ({"method": "datadam"}, "another cell: not the same method"),
    "another budget": ({"budget": {"ipc": 50}}, "another cell: not the same budget"),
    "another network": ({"student_network": "mlp"}, "another cell: not the same student_network"),
    "nothing": ({"supersedes": digest("nothing")}, "no record here"),
    "no reason": ({"submission": {**WORDS, "files": {SET: FILE}}}, "without saying why"),
}


@pytest.mark.parametrize("case", APPEALS)
def test_an_appeal_that_cannot_be_is_named(case, results):
    change, words = APPEALS[case]
    add(results, record(submission=None), "measured")
    add(results, an_appeal(**change))
    assert words in only(results)


def test_two_records_cannot_supersede_each_other(results):
    second = record()
    one = an_appeal(0.6, supersedes=second.key_hash())
    other = second.model_copy(update={"supersedes": one.key_hash()})
    add(results, one)
    add(results, other)
    assert len([p for p in check_submissions(results) if "without being better" in p.text]) == 1


# --- nothing is lost


def test_what_was_recorded_stays(results, tmp_path):
    base = tmp_path / "base"
    path = add(results, record())
    shutil.copytree(results, base)
    add(results, record(runs=[a_run(seed) for seed in range(5)]))
    assert check_submissions(results, base) == []  # more seeds by the same authors
    path.write_text(record(runs=[a_run(0, 0.9), a_run(1), a_run(2)]).to_json())
    assert "changes what was recorded" in only(results, base)
    path.write_text(record(note="another").model_copy(update={"runs": record().runs[:2]}).to_json())
    assert any("changes what was recorded" in p.text for p in check_submissions(results, base))
    path.write_text(record(submission={**WORDS, "authors": ["Somebody"], "files": {SET: FILE}}).to_json())
    assert "only its authors" in only(results, base)
    path.unlink()
    assert "is gone" in only(results, base)


def test_the_same_people_add_files_and_others_cannot():
    one, more = record(), record(runs=[a_run(5)])
    assert len(merge(one, more).runs) == 4
    other = record(submission={**WORDS, "name": "Theirs", "files": {SET: FILE}})
    with pytest.raises(UsageError, match="submission of 'Mine'"):
        merge(one, other)
    assert merge(record(submission=None), one).submission == one.submission


# --- from a set to a submission


@pytest.fixture
def scored(toys, tmp_path):
    """A set of the toy method, evaluated."""
    path = tmp_path / "toy.safetensors"
    distill("toy", ipc=2, recipe="generic", out=path)
    made = evaluate(path, protocol="toy-hard-v1", seeds=3)
    clean = [run.model_copy(update={"dirty": False}) for run in made.runs]  # whatever the checkout under test is
    RecordStore(tmp_path / "mine").add(made.model_copy(update={"runs": clean}))
    return path


def words(path, *more):
    plain = ["submit", str(path), "--name", "Mine", "--author", "A", "--author", "B", "--licence", "MIT"]
    return [*plain, "--address", "hf:me/sets/toy.safetensors", *more]


def test_the_command_writes_what_the_check_accepts(scored, tmp_path, results):
    where = ("--results", tmp_path / "mine", "--out", results / "submitted")
    made = done(ddbench(*words(scored, *where)))
    (path,) = RecordStore(results / "submitted").paths()
    assert made.stdout == f"{path}\n"
    one = read_record(path)
    ((key, file),) = one.submission.files.items()
    assert (key, file) == shared_set(scored, "hf:me/sets/toy.safetensors")
    assert (file.size, file.sha256) == (scored.stat().st_size, file_sha256(scored))
    assert one.submission.authors == ["A", "B"]
    again = RecordStore(tmp_path / "mine").paths()[0]
    by_record = ddbench(*words(again, "--synset", scored, "--out", tmp_path / "b"))
    assert Path(done(by_record).stdout.strip()).read_bytes() == path.read_bytes()
    assert "1 submission " in done(ddbench("check-submissions", "--results", results)).stderr


BAD_WORDS = {
    "no record": ((), {"--results": "none"}, "ddbench evaluate"),
    "address": ((), {"--address": "ftp://x"}, "https://"),
    "licence": ((), {"--licence": "?"}, "licence"),
    "appeal without a reason": (("--supersedes", "x.json"), {}, "--appeal"),
    "also without an address": (("--also", "file"), {}, "FILE=ADDRESS"),
}


@pytest.mark.parametrize("case", BAD_WORDS)
def test_bad_input_is_one_line_and_writes_nothing(case, scored, tmp_path, results):
    more, changes, named = BAD_WORDS[case]
    given = words(scored, "--results", tmp_path / "mine", "--out", results / "submitted", *more)
    for flag, text in changes.items():
        given[given.index(flag) + 1] = text
    found = ddbench(*given)
    assert found.exit_code == 2 and named in found.stderr and found.stderr.count("\n") == 1
    assert not results.exists()


def test_a_failed_check_is_exit_code_1_with_its_lines(results):
    add(results, record(runs=[a_run(0)]))
    found = ddbench("check-submissions", "--results", results)
    assert found.exit_code == 1 and "at least 3" in found.stdout and "1 problem in" in found.stderr
    found = ddbench("check-submissions", "--results", results, "--json")
    assert [set(each) for each in json.loads(found.stdout)] == [{"file", "problem"}]
    assert ddbench("check-submissions", "--results", results / "none").exit_code == 2


def test_an_appeal_is_written_only_if_it_is_one(tmp_path, results):
    old, one = record(submission=None), an_appeal()
    about = one.submission
    plain = one.model_copy(update={"submission": None, "supersedes": None})
    path = submit(plain, about, results / "submitted", superseded=old)
    assert read_record(path) == one
    with pytest.raises(UsageError, match="without being better"):
        submit(an_appeal(0.4).model_copy(update={"submission": None}), about, tmp_path / "no", superseded=old)
    assert not (tmp_path / "no").exists()


def test_files_of_the_cache_are_told_apart_by_their_folders(tmp_path):
    with pytest.raises(UsageError, match="no sealed"):
        shared_product(tmp_path / "none", "hf:a/b/c")
    place = tmp_path / "stages" / "experts" / ("0" * 32) / "0-1.safetensors"
    sealed = write_sealed(place, {}, {"loss": 0.5})
    key, file = shared_product(place, "hf:a/b/c")
    assert (key, file.kind, file.entry) == (sealed.hash, "experts", f"experts/{'0' * 32}/0-1")
    with pytest.raises(UsageError, match="entry"):
        write_sealed(tmp_path / "x y" / "z.safetensors", {}, {})
        shared_product(tmp_path / "x y" / "z.safetensors", "hf:a/b/c")
    assert claim({key: file}, **WORDS).files == {key: file}
