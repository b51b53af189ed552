"""One door for numbers and JSON: what passes, and what is said of the rest."""

import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toysae import ToysaeError, checked


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3)])
def test_whole_numbers_of_any_kind_pass(value):
    found = checked.integer("n", value, 1, 3)
    assert found == 3 and type(found) is int


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (20.0, "n 20.0 is not a whole number: write 20"),
        (8.5, "n 8.5 is not a whole number: write 1 to 30"),
        (True, "n True is not a whole number"), ("8", "n '8' is not a whole number"),
        (None, "n None is not a whole number"), ([3], r"n \[3\] is not"), (np.nan, "n nan is not"),
        (0, "n 0 is out of range: write 1 to 30"), (31, "n 31 is out of range"),
        (10**30, "out of range"),
    ],
)  # fmt: skip
def test_others_are_named(value, said):
    with pytest.raises(ToysaeError, match=said):
        checked.integer("n", value, 1, 30)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 10**400, True, "1", None, [], 1j])
def test_a_number_is_finite(value):
    with pytest.raises(ToysaeError, match="^x "):
        checked.number("x", value)


def test_ranges_of_numbers():
    assert checked.number("x", np.float32(0.5), above=0, high=1) == 0.5
    for value, said in ((0, "larger than 0"), (2, "out of range")):
        with pytest.raises(ToysaeError, match=said):
            checked.number("x", value, above=0, high=1)


def test_several_takes_one_and_no_letters():
    assert checked.several("seeds", 3, checked.seed) == (3,)
    assert checked.several("seeds", np.arange(3), checked.seed) == (0, 1, 2)
    assert checked.several("names", "abc", checked.text) == ("abc",)
    for values, said in (((), "is empty"), ((1, 1), "twice"), ((1, 2**31), "out of range"), ((-1,), "out of range")):  # noqa: E501  # fmt: skip
        with pytest.raises(ToysaeError, match=said):
            checked.several("seeds", values, checked.seed)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "a": 1}', "has 'a' twice"), ('{"a": NaN}', "holds NaN"),
        ("[1e999]", "too large"), ("[-Infinity]", "holds -Infinity"),
        ("[" * 100_000, "nested too deep"), ("{", "is not JSON"), ("", "is not JSON"),
        (b"\xff", "is not JSON"),
    ],
)  # fmt: skip
def test_json_that_is_read_in_more_than_one_way_is_refused(text, said):
    with pytest.raises(ToysaeError, match=f"^x.json.* {said}|^x.json {said}") as error:
        checked.parse_json(text, "x.json")
    assert len(str(error.value)) < 300 and "\n" not in str(error.value)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8,
)  # fmt: skip


def test_a_value_of_any_size_is_shown_in_a_short_line():
    deep = {f"{i}" * 60: {f"{j}" * 60: 1e300 for j in range(4)} for i in range(4)}
    for value in (deep, [deep] * 6, "x" * 10_000, 10**4000, "a\nb"):
        assert len(checked.shown(value)) <= 200 and "\n" not in checked.shown(value)
    assert checked.shown({"a": [1, 2]}) == "{'a': [1, 2]}"
    assert checked.shown(deep).endswith("...")


@settings(deadline=None, derandomize=True)
@given(_JSON)
def test_fields_of_anything_are_a_value_or_one_line(value):
    """Whatever a file holds where an object with a few fields is expected."""
    for made in (value, {"a": value}):
        for ask in (
            lambda f: f.integer("a", low=0), lambda f: f.number("a", above=0),
            lambda f: f.text("a"), lambda f: f.flag("a"), lambda f: f.items("a"),
            lambda f: f.object("a"), lambda f: f.text("a", choices=["b"]),
        ):  # fmt: skip
            try:
                ask(checked.Fields(made, "x.json"))
            except ToysaeError as error:
                assert "x.json" in str(error) and len(str(error)) < 400


def test_only_regular_files_of_a_size_are_read(tmp_path):
    file = tmp_path / "a.json"
    file.write_text(json.dumps([1] * 100))
    assert checked.read_json(file) == [1] * 100
    with pytest.raises(ToysaeError, match="has 300 bytes, and a note has at most 10"):
        checked.read_regular(file, 10, "note")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, type(tmp_path)("/dev/zero")):
        with pytest.raises(ToysaeError, match="not a regular file"):
            checked.read_regular(path, 10, "note")
    with pytest.raises(ToysaeError, match="there is no note"):
        checked.read_regular(tmp_path / "no", 10, "note")
