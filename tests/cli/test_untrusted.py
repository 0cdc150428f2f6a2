"""Files of strangers: whatever is in them, they are read or refused in one line, and nothing in them is run."""

import json
import pickle
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from ddbench.data.registry import load_dataset
from ddbench.distillation.recipes import LARGEST as LARGEST_RECIPE
from ddbench.distillation.recipes import parse, resolve
from ddbench.errors import UsageError
from ddbench.evaluation.evaluate import base_record
from ddbench.evaluation.protocol import find_protocol
from ddbench.records.addresses import parse_address
from ddbench.records.record import Record
from ddbench.records.store import LARGEST, RecordStore, read_record
from ddbench.records.submission import SharedFile, Submission
from ddbench.schema import UNSEEN, Words
from ddbench.synset.synset import load
from ddbench.synset.teachers import read_teacher
from ddbench.system import files
from ddbench.training.sealed import look_sealed

OFTEN = settings(max_examples=300, deadline=None, derandomize=True)
WITH_FILES = settings(OFTEN, suppress_health_check=[HealthCheck.function_scoped_fixture])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30)
PLAIN = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4)
)
FIELDS = (*Record.model_fields, "schema")
RECORDS = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8), PLAIN, max_size=len(FIELDS))


def one_line(call, *given_):
    """What a call gives, or None where it refuses, in one line."""
    try:
        return call(*given_)
    except UsageError as error:
        assert "\n" not in str(error) and len(str(error)) < 3000
        str(error).encode()
        return None


@OFTEN
@given(RECORDS)
def test_any_json_is_a_record_or_refused(value):
    one_line(Record.from_json, json.dumps(value), "x.json")


@OFTEN
@given(st.dictionaries(st.sampled_from(tuple(Submission.model_fields)), PLAIN, max_size=8))
def test_any_json_is_a_submission_or_refused(value):
    from submitted_records import value as sound

    read = one_line(Record.from_json, json.dumps(sound(submission=value)), "x.json")
    if read is not None and read.submission is not None:
        assert Record.from_json(read.to_json(), "again") == read


@OFTEN
@given(st.text(max_size=300))
def test_any_text_is_a_recipe_or_refused(text):
    one_line(parse, text, "x.toml")


@WITH_FILES
@given(st.binary(max_size=400))
def test_any_bytes_are_refused_as_every_kind_of_file(tmp_path, raw):
    path = tmp_path / "x"
    path.write_bytes(raw)
    for read in (read_record, load, look_sealed, read_teacher):
        assert one_line(read, path) is None


@WITH_FILES
@given(PLAIN)
def test_any_header_of_a_set_is_refused(tmp_path, value):
    """A safetensors file without tensors whose header is ours in name alone."""
    header = {"format": "ddbench-synset", "version": 1, **(value if isinstance(value, dict) else {"classes": value})}
    raw = json.dumps({"__metadata__": {"ddbench": json.dumps(header)}}).encode()
    path = tmp_path / "x"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw)
    assert one_line(load, path) is None


@OFTEN
@given(st.sampled_from(("file:", "hf:", "https://", "")), st.text(max_size=60))
def test_an_address_of_any_text_stays_in_its_folder_and_on_https(scheme, text):
    try:
        place = parse_address(scheme + text)
    except ValueError:
        return
    assert (place.url is None) != (place.path is None)
    if place.path is not None:
        assert not place.path.is_absolute() and not {"..", ".", ""} & {*place.path.parts}
    else:
        assert place.url.startswith("https://") and place.url.isascii() and " " not in place.url


@OFTEN
@given(st.text(max_size=40))
def test_words_hide_nothing(text):
    try:
        TypeAdapter(Words).validate_python(text)
    except ValueError:
        return
    assert text.isprintable() or not UNSEEN.search(text)
    assert not set(text) & {"\n", "\r", "\x1b", "\x9b", "\u202e", "\u200b"}


@WITH_FILES
@given(
    name=st.text(min_size=1, max_size=80).filter(lambda t: not any(ord(c) < 32 or ord(c) == 127 for c in t)),
    network=st.text(min_size=1, max_size=40).filter(lambda t: not any(ord(c) < 32 or ord(c) == 127 for c in t)),
)
def test_records_stay_in_their_folder_whatever_their_names(tmp_path, name, network):
    from submitted_records import value

    read = one_line(Record.from_json, json.dumps(value(method=name, student_network=network, protocol=name)), "x")
    if read is not None:
        path = RecordStore(tmp_path).path(read.key())
        assert path.resolve().is_relative_to(tmp_path.resolve()) and len(path.relative_to(tmp_path).parts) == 3


# --- sizes are bounded before anything is read


def test_a_record_or_recipe_too_large_is_not_read(tmp_path):
    for limit, name, read in (
        (LARGEST, "x.json", read_record),
        (LARGEST_RECIPE, "x.toml", lambda path: resolve_by(str(path))),
    ):
        path = tmp_path / name
        with path.open("wb") as file:
            file.truncate(2**40)  # a file of holes: reading all of it would take a terabyte
        with pytest.raises(UsageError, match=f"more than {limit:,} bytes"):
            read(path)


def resolve_by(recipe):
    from ddbench.budget import Budget
    from ddbench.distillation.method import find_method

    return resolve(find_method("dm"), load_dataset("digits"), Budget(ipc=1), recipe=recipe)


def test_text_is_read_up_to_its_limit_and_no_further(tmp_path):
    path = tmp_path / "x"
    path.write_text("é" * 5)
    assert files.read_text(path, 10, "note") == "é" * 5
    with pytest.raises(UsageError, match="too large for a note: more than 9 bytes"):
        files.read_text(path, 9, "note")
    path.write_bytes(b"\xff")
    for bad in (path, tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError, match="cannot be read as a note"):
            files.read_text(bad, 10, "note")


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a = " + "9" * 5000, "a = 1979-13-40", 'a = "\\ud800"'])
def test_what_parsers_trip_over_is_refused(text):
    with pytest.raises(UsageError, match=r"x\.toml"):
        parse(text, "x.toml")


@pytest.mark.parametrize(
    "change",
    [{"budget": {"ipc": 10**400}}, {"protocol_version": 10**30}],
)
def test_numbers_beyond_all_reason_are_refused(change):
    from submitted_records import value

    with pytest.raises(UsageError):
        Record.from_json(json.dumps(value(**change)), "x")


# --- nothing is run


class Bomb:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return exec, (f"import pathlib; pathlib.Path({self.marker!r}).touch()",)


def test_a_pickle_is_no_file_of_ours_and_stays_unread(tmp_path):
    marker, path = tmp_path / "executed", tmp_path / "x"
    path.write_bytes(pickle.dumps(Bomb(marker)))
    for read in (read_record, load, look_sealed, read_teacher):
        assert one_line(read, path) is None
    assert not marker.exists()
    pickle.loads(path.read_bytes())
    assert marker.exists()  # the bomb is a live one


# --- what a set says of itself, which its hash does not cover

PROVENANCE = {
    "no data set": {"recipe": {"method": "dm"}},
    "budget": {"recipe": {"method": "dm", "dataset": "digits", "network": "mlp", "budget": {"ipc": "1"}}},
    "method": {"recipe": {"method": 3, "dataset": "digits", "network": "mlp", "budget": {"ipc": 1}}},
    "seed": {"seed": -1, "recipe": {"method": "dm", "dataset": "digits", "network": "mlp", "budget": {"ipc": 1}}},
    "name": {"recipe_hash": None, "method": "a\nb"},
    "no name": {"recipe_hash": None, "method": ""},
}


@pytest.mark.parametrize("case", PROVENANCE)
def test_provenance_that_makes_no_record_is_refused(case):
    import torch

    from ddbench.data.spaces import make_space
    from ddbench.evaluation.evaluate import student_recipe
    from ddbench.synset.synset import Provenance, SynSet

    digits, hard = load_dataset("digits"), find_protocol("hard-v1")
    made = Provenance.model_validate({"seed": 0, "recipe_hash": "0" * 64, **PROVENANCE[case]})
    fields = {"classes": torch.arange(10), "space": make_space("pixel", digits), "images": torch.zeros(10, 1, 8, 8)}
    synset = SynSet.of(digits, **fields, provenance=made)
    with pytest.raises(UsageError, match="the set's provenance does not make a record"):
        base_record(synset, hard, student_recipe(synset, digits, hard, None))


def test_a_shared_file_is_of_a_kind_with_a_bounded_size():
    sound = {"kind": "set", "size": 1, "sha256": "0" * 64, "address": "hf:a/b/c"}
    assert SharedFile.model_validate(sound).size == 1
    for change in ({"size": True}, {"size": 1.0}, {"size": 2**41}, {"kind": "code"}, {"sha256": "0" * 63}):
        with pytest.raises(ValueError):
            SharedFile.model_validate({**sound, **change})
