"""The three-way merge: what is kept, what wins, and that nothing disjoint is ever lost."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverless_session.sessions.merge import merge

scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3)
)
mappings = st.dictionaries(st.text(max_size=2), values, max_size=5)


@pytest.mark.parametrize(
    ("base", "mine", "theirs", "merged", "conflicts"),
    [
        ({}, {"a": 1}, {"b": 2}, {"a": 1, "b": 2}, 0),
        ({"a": 1}, {"a": 2}, {"a": 1}, {"a": 2}, 0),
        ({"a": 1}, {"a": 1}, {"a": 2}, {"a": 2}, 0),
        ({"a": 1}, {"a": 2}, {"a": 3}, {"a": 2}, 1),
        ({"a": 1}, {"a": 2}, {"a": 2}, {"a": 2}, 0),
        # deletion wins, in either order, at every depth
        ({"u": {"n": 1}}, {}, {"u": {"n": 1, "seen": 2}}, {}, 0),
        ({"u": {"n": 1}}, {"u": {"n": 1, "seen": 2}}, {}, {}, 0),
        ({"x": {"u": {"n": 1}}}, {"x": {}}, {"x": {"u": {"n": 2}}}, {"x": {}}, 0),
        # lists that both only grew
        ({"l": [1]}, {"l": [1, 2]}, {"l": [1, 3]}, {"l": [1, 3, 2]}, 0),
        ({}, {"l": ["x"]}, {"l": ["x"]}, {"l": ["x", "x"]}, 0),  # two tabs that each put one in the cart: two
        ({}, {"c": {"l": ["x"]}}, {"c": {"l": ["x"]}}, {"c": {"l": ["x", "x"]}}, 0),
        ({}, {"l": ["x"]}, {"l": ["y"]}, {"l": ["y", "x"]}, 0),
        ({"l": [1, 2]}, {"l": [1]}, {"l": [1, 2, 3]}, {"l": [1, 3]}, 0),
        ({"l": [1, 2]}, {"l": [1, 2, 3]}, {"l": []}, {"l": [3]}, 0),
        ({"l": [1, 2]}, {"l": [2]}, {"l": [1]}, {"l": [2]}, 1),
        # both created the mapping: the same rules from empty
        ({}, {"c": {"a": 1}}, {"c": {"b": 1}}, {"c": {"a": 1, "b": 1}}, 0),
        ({"c": "x"}, {"c": {"a": 1}}, {"c": {"b": 1}}, {"c": {"a": 1, "b": 1}}, 0),
        # types count
        ({"a": 1}, {"a": True}, {"a": 1}, {"a": True}, 0),
    ],
)
def test_rules(
    base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any], merged: dict[str, Any], conflicts: int
) -> None:
    outcome = merge(base, mine, theirs)
    assert (outcome.data, outcome.conflicts) == (merged, conflicts)
    assert [type(value) for value in outcome.data.values()] == [type(value) for value in merged.values()]


@given(base=mappings, change=mappings)
def test_what_only_one_side_changed_is_taken(base: dict[str, Any], change: dict[str, Any]) -> None:
    assert merge(base, change, base).data == change
    assert merge(base, base, change).data == change


@given(base=mappings, mine=mappings, theirs=mappings)
def test_disjoint_changes_are_both_kept(base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    mine = {"m" + key: value for key, value in mine.items()}
    theirs = {"t" + key: value for key, value in theirs.items()}
    base = {"b" + key: value for key, value in base.items()}
    outcome = merge(base, base | mine, base | theirs)
    assert outcome.data == base | mine | theirs
    assert outcome.conflicts == 0


@given(base=st.lists(scalars), mine=st.lists(scalars), theirs=st.lists(scalars))
def test_two_appends_lose_nothing(base: list[Any], mine: list[Any], theirs: list[Any]) -> None:
    merged = merge({"l": base}, {"l": base + mine}, {"l": base + theirs}).data["l"]
    assert merged == base + theirs + mine


@given(base=mappings, mine=mappings, theirs=mappings)
def test_nothing_given_is_changed(base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    before = repr((base, mine, theirs))
    merge(base, mine, theirs)
    assert repr((base, mine, theirs)) == before
