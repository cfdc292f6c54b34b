"""The three-way merge: what is kept, what wins, and that nothing disjoint is ever lost."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverless_session import sum_of_changes
from serverless_session.errors import ConfigurationError
from serverless_session.sessions.merge import MergeRules, deleted_paths, merge, without

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


# --- at every depth ---------------------------------------------------------------------------------------------------

Path = tuple[str, ...]
paths = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(tuple)


def put(data: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    first, *rest = path
    inner = data.get(first)
    return data | {first: put(inner if isinstance(inner, dict) else {}, tuple(rest), value) if rest else value}


def at(data: dict[str, Any], path: Path) -> Any:
    for key in path:
        data = data[key]
    return data


def apart(one: Path, other: Path) -> bool:
    """Neither leads through the other's end."""
    shorter = min(len(one), len(other))
    return one[:shorter] != other[:shorter]


def built(changes: list[tuple[Path, Any]]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for path, value in changes:
        data = put(data, path, value)
    return data


nested = st.lists(st.tuples(paths, scalars), max_size=6).map(built)


@given(base=nested, mine=st.tuples(paths, scalars), theirs=st.tuples(paths, scalars))
def test_changes_at_disjoint_paths_are_both_kept(
    base: dict[str, Any], mine: tuple[Path, Any], theirs: tuple[Path, Any]
) -> None:
    if not apart(mine[0], theirs[0]):
        return
    outcome = merge(base, put(base, *mine), put(base, *theirs))
    assert at(outcome.data, mine[0]) == mine[1]
    assert at(outcome.data, theirs[0]) == theirs[1]


no_lists = st.recursive(scalars, lambda inner: st.dictionaries(st.text(max_size=2), inner, max_size=3))
plain = st.dictionaries(st.text(max_size=2), no_lists, max_size=5)


@given(base=plain, mine=plain, theirs=plain)
def test_merging_the_same_change_again_changes_nothing(
    base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any]
) -> None:
    """Of appends this is not so: two tabs that each put the same thing in a cart have put in two. A write that is sent
    again is no second change: it carries its version (`test_a_save_that_is_sent_again_counts_once`)."""
    once = merge(base, mine, theirs).data
    assert merge(base, mine, once).data == once


@given(base=mappings, mine=mappings, theirs=mappings)
def test_nothing_comes_back_that_one_side_has_deleted(
    base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any]
) -> None:
    merged = merge(base, mine, theirs).data
    for side in (mine, theirs):
        for path in deleted_paths(base, side):
            assert not stands_at(merged, path)


def stands_at(data: Any, path: list[str]) -> bool:
    for key in path:
        if not isinstance(data, dict) or key not in data:
            return False
        data = data[key]
    return True


@given(base=mappings, mine=mappings)
def test_without_what_was_deleted_is_what_is_left(base: dict[str, Any], mine: dict[str, Any]) -> None:
    left = without(base, deleted_paths(base, mine))
    assert not deleted_paths(left, mine)
    assert merge(base, left, base).data == left


# --- what an app says about single keys -------------------------------------------------------------------------------

COUNT = MergeRules.of({"n": sum_of_changes}, ())
TENANT = MergeRules.of({}, [("tenant", "role")])


@given(base=st.none() | st.integers(), mine=st.integers(), theirs=st.integers())
def test_a_sum_of_changes_counts_both(base: int | None, mine: int, theirs: int) -> None:
    start = base or 0
    before = {} if base is None else {"n": base}
    merged = merge(before, {"n": start + mine}, {"n": start + theirs}, COUNT)
    assert merged.data == {"n": start + mine + theirs}
    assert merged.conflicts == 0


def test_a_deletion_wins_over_a_strategy() -> None:
    assert merge({"n": 1}, {}, {"n": 5}, COUNT).data == {}
    assert merge({"n": 1}, {"n": 5}, {}, COUNT).data == {}


def test_a_function_runs_again_on_what_the_other_has_left() -> None:
    functions = {"n": lambda n: (n or 0) + 1}
    assert merge({"n": 1}, {"n": 2}, {"n": 10}, functions=functions).data == {"n": 11}
    assert merge({}, {"n": 1}, {"n": 1}, functions=functions).data == {"n": 2}
    assert merge({"n": 1}, {"n": 2}, {"n": 1, "a": 1}, functions=functions).data == {"n": 2, "a": 1}
    assert merge({"n": 1}, {"n": 2}, {}, functions=functions).data == {}, "a deletion wins"
    assert merge({"n": 7}, {"n": 7}, {"n": 3}, functions={"n": lambda n: max(n, 5)}).data == {"n": 5}, "also unchanged"


@pytest.mark.parametrize(
    ("base", "mine", "theirs", "merged", "conflicts"),
    [
        # what key by key would build: tenant 2 with the role that was computed for tenant 1
        ({"tenant": 1, "role": "user"}, {"tenant": 1, "role": "admin"}, {"tenant": 2, "role": "user"}, "mine", 1),
        ({"tenant": 1, "role": "user"}, {"tenant": 2, "role": "user"}, {"tenant": 1, "role": "admin"}, "mine", 1),
        ({"tenant": 1, "role": "user"}, {"tenant": 2, "role": "user"}, {"tenant": 1, "role": "user", "a": 1}, None, 0),
        ({}, {"tenant": 1}, {"role": "admin"}, "mine", 1),
        ({}, {"tenant": 1, "role": "user"}, {"tenant": 1, "role": "user"}, "mine", 0),
    ],
)
def test_keys_that_belong_together_come_from_one_side(
    base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any], merged: str | None, conflicts: int
) -> None:
    outcome = merge(base, mine | {"m": 1}, theirs | {"t": 1}, TENANT)
    assert outcome.data == (mine if merged else {"tenant": 2, "role": "user", "a": 1}) | {"m": 1, "t": 1}
    assert outcome.conflicts == conflicts


def test_a_deletion_wins_among_keys_that_belong_together() -> None:
    base = {"tenant": 1, "role": "user"}
    assert merge(base, {"tenant": 2, "role": "admin"}, {"tenant": 1}, TENANT).data == {"tenant": 2}
    assert merge(base, {"tenant": 2}, {"tenant": 1, "role": "admin"}, TENANT).data == {"tenant": 2}


@pytest.mark.parametrize(
    ("strategies", "together", "code"),
    [
        ({"n": 1}, (), "bad-merge"),
        ({1: sum_of_changes}, (), "bad-merge"),
        ({}, "ab", "bad-together"),
        ({}, ["ab"], "bad-together"),
        ({}, [("a", "b"), ("b", "c")], "two-merges"),
        ({"a": sum_of_changes}, [("a", "b")], "two-merges"),
    ],
)
def test_rules_that_contradict_each_other_are_refused(strategies: Any, together: Any, code: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        MergeRules.of(strategies, together)
    assert caught.value.code == code
