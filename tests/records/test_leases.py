"""Nobody is shown what was invalidated before he asked, in whatever order things happen."""

from collections.abc import Sequence
from typing import Any

import pytest

from serverless_session.records import leases, tags
from serverless_session.records.leases import Computed, Lease, Terms, invalidate
from serverless_session.records.records import Kept
from serverless_session.records.steps import Ask, Steps
from serverless_session.records.tags import Stamps, invalidate_tags
from serverless_session.stores import ANYTHING, Delete, Operation, Read
from tests.records.computing import FRESH, LEASE, Task, World, count, each

SOME = 1000
"""Orders of each scenario that tests draw; all of them are counted by `python -m tests.records.test_leases`."""

PATIENT = Terms(lease=LEASE, patience=leases.FIRST_PAUSE / 2)
"""Waits once."""


def two_readers_and_a_change(backwards: bool, **broken: Any) -> tuple[World, Sequence[Task]]:
    world = World(backwards=backwards, **broken)
    return world, [
        world.reader(world.place),
        world.reader(world.place),
        world.change(lambda: world.invalidate([world.place.key])),
    ]


def a_value_and_a_change(backwards: bool, **broken: Any) -> tuple[World, Sequence[Task]]:
    """A value stands, and is computed anew early while it is invalidated."""
    world = World(backwards=backwards, **broken)
    world.alone(world.reader(world.place))
    early = Terms(lease=LEASE, patience=0.0, is_early=lambda entry, now: True)
    return world, [
        world.reader(world.place, early),
        world.reader(world.place, early),
        world.change(lambda: world.invalidate([world.place.key])),
    ]


def a_lease_that_ends(backwards: bool, **broken: Any) -> tuple[World, Sequence[Task]]:
    world = World(backwards=backwards, **broken)
    return world, [
        world.reader(world.place),
        world.passing(LEASE + 1),
        world.reader(world.place),
        world.change(lambda: world.invalidate([world.place.key])),
    ]


def a_tag_that_changes(backwards: bool, **broken: Any) -> tuple[World, Sequence[Task]]:
    world = World(backwards=backwards, **broken)
    world._tags_used = True
    return world, [
        world.reader(world.tagged),
        world.reader(world.tagged),
        world.change(lambda: invalidate_tags([world.tag], world.watch)),
    ]


def a_tag_that_changes_and_is_evicted(backwards: bool, **broken: Any) -> tuple[World, Sequence[Task]]:
    world = World(backwards=backwards, **broken)
    world._tags_used = True
    world.alone(world.reader(world.tagged))
    return world, [
        world.reader(world.tagged),
        world.change(lambda: invalidate_tags([world.tag], world.watch)),
        world.evicting(world.tag),
    ]


def a_late_tag_that_changes(backwards: bool, **broken: Any) -> tuple[World, Sequence[Task]]:
    """A tag that the first reader gives his value once he has computed it."""
    world = World(backwards=backwards, **broken)
    world.alone(world.change_nothing())
    return world, [
        world.reader(world.place, late=[world.tag]),
        world.change(lambda: invalidate_tags([world.tag], world.watch)),
    ]


def a_late_tag_that_changes_and_is_evicted(backwards: bool, **broken: Any) -> tuple[World, Sequence[Task]]:
    world, tasks = a_late_tag_that_changes(backwards, **broken)
    return world, [*tasks, world.evicting(world.tag)]


def a_late_tag_and_an_evicted_watch(backwards: bool, **broken: Any) -> tuple[World, Sequence[Task]]:
    world, tasks = a_late_tag_that_changes(backwards, **broken)
    return world, [*tasks, world.evicting(world.watch)]


SCENARIOS = [
    a_late_tag_that_changes,
    a_late_tag_that_changes_and_is_evicted,
    a_late_tag_and_an_evicted_watch,
    two_readers_and_a_change,
    a_value_and_a_change,
    a_lease_that_ends,
    a_tag_that_changes,
    a_tag_that_changes_and_is_evicted,
]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nobody_is_shown_what_was_invalidated_before_he_asked(scenario: Any) -> None:
    """THREATS 10."""
    assert count(scenario, SOME) == (2 * SOME, 0)


# --- broken rules -----------------------------------------------------------------------------------------------------


def keep_over_anything(lease: Lease, computed: Computed, stamps: Stamps, now: float) -> Steps[bool]:
    return leases.keep(lease._replace(expect=ANYTHING), computed, stamps, now)  # type: ignore[arg-type]  # it is broken


def late_and_trusting(late: Sequence[str], stamps: Stamps, watch: str, was: bytes | None) -> Steps[Any]:
    """The stamps are read once the value is computed, and nothing else."""
    told = yield Ask(list(map(Read, late)))
    return (yield from tags.made(late, {**stamps, **(tags.read(late, told.outcomes) or {})}))


def late_and_the_watch_first(late: Sequence[str], stamps: Stamps, watch: str, was: bytes | None) -> Steps[Any]:
    """The watch is looked at before the stamps."""
    told = yield Ask([Read(watch)])
    found = told.outcomes[0]
    if not isinstance(found, Kept) or tags.stamp_of(found) != was:
        return None
    return (yield from late_and_trusting(late, stamps, watch, was))


def keep_with_the_stamps_of_now(lease: Lease, computed: Computed, stamps: Stamps, now: float) -> Steps[bool]:
    """Read when the value is written, not before it was computed."""
    told = yield Ask(list(map(Read, stamps)))
    return (yield from leases.keep(lease, computed, tags.read(list(stamps), told.outcomes) or {}, now))


def delete_alone(keys: Sequence[str]) -> Steps[None]:
    yield Ask([Delete(key, expect=ANYTHING) for key in keys])


@pytest.mark.parametrize(
    ("scenario", "broken"),
    [
        (two_readers_and_a_change, {"keep": keep_over_anything}),
        (a_value_and_a_change, {"keep": keep_over_anything}),
        (a_lease_that_ends, {"keep": keep_over_anything}),
        (a_late_tag_that_changes, {"late": late_and_trusting}),
        (a_late_tag_that_changes, {"late": late_and_the_watch_first}),
        (a_tag_that_changes, {"keep": keep_with_the_stamps_of_now}),
    ],
)
def test_a_broken_rule_is_seen(scenario: Any, broken: dict[str, Any]) -> None:
    assert any(world.stale() for world in each(lambda backwards: scenario(backwards, **broken), SOME))


def test_a_stamp_that_is_gone_must_not_count_as_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    def are_dead(its: Stamps, now: Stamps) -> bool:
        return any(tag in now and now[tag] != stamp for tag, stamp in its.items())

    monkeypatch.setattr(tags, "are_dead", are_dead)
    monkeypatch.setattr(tags, "are_stale", are_dead)
    assert any(world.stale() for world in each(a_tag_that_changes_and_is_evicted, SOME))


@pytest.mark.parametrize(("how", "stale"), [(invalidate, False), (delete_alone, True)])
def test_a_late_copy_of_a_lease_is_stopped_by_the_tombstone(how: Any, stale: bool) -> None:
    """A creation that was sent twice may land once more after an invalidation; its holder has read before that."""
    world = World()
    sent: list[Operation] = []

    def noting(*given: Any) -> Steps[leases.Found]:
        steps = leases.find(*given)
        asked = next(steps)
        assert isinstance(asked, Ask)
        sent.extend(asked.operations)
        told = yield asked
        try:
            steps.send(told)
        except StopIteration as stop:
            found: leases.Found = stop.value
            return found
        raise AssertionError("it has not got the lease at once")

    world.find = noting
    reader = world.reader(world.place)
    for _ in range(3):
        next(reader)  # it has the lease, and has looked at the source
    world.find = leases.find
    world.alone(world.change(lambda: how([world.place.key])))
    world._perform(sent[0])
    for _ in reader:
        pass
    assert world.stale() is stale


# --- one computation --------------------------------------------------------------------------------------------------


def test_of_many_who_ask_at_once_one_computes_and_the_others_wait() -> None:
    world = World()
    tasks = [world.reader(world.place, Terms(lease=LEASE, patience=1000.0)) for _ in range(50)]
    while tasks:
        tasks = [task for task in tasks if next(task, task) is not task]
    assert world.computed == 1
    assert world.shown == [(1, 1)] * 50


def test_who_holds_a_lease_and_dies_is_followed() -> None:
    world = World()
    world.alone(world.reader(world.place, dies=True))
    world.clock.advance(LEASE + 1)
    world.alone(world.reader(world.place))
    assert (world.computed, world.shown) == (1, [(1, 1)])


def test_a_failure_gives_the_lease_back() -> None:
    world = World()
    world.alone(world.reader(world.place, fails=True))
    world.alone(world.reader(world.place, Terms(lease=LEASE, patience=0.0)))
    assert (world.computed, world.shown) == (2, [(1, 1)])
    world.alone(world.reader(world.place))
    assert world.computed == 2, "it was kept"


def test_a_stale_value_is_shown_to_all_but_one_and_dead_at_its_end() -> None:
    """A lease beside a value moves none of its ends."""
    world = World()
    world.alone(world.reader(world.place))
    world.clock.advance(FRESH + 1)
    world.source = 2
    refreshing = world.reader(world.place)
    for _ in range(3):
        next(refreshing)
    for _ in range(3):
        world.alone(world.reader(world.place))
    assert [value for value, _ in world.shown] == [1, 1, 1, 1]
    for _ in refreshing:
        pass
    world.alone(world.reader(world.place))
    assert [value for value, _ in world.shown] == [1, 1, 1, 1, 2, 2]


def test_a_source_that_fails_for_ever_is_gone_at_the_last_end() -> None:
    """THREATS 38."""
    world = World()
    world.alone(world.reader(world.place))
    for _ in range(100):
        world.clock.advance(4.0)
        world.alone(world.reader(world.place, fails=True))
    found = world.run(leases.find(world.place, PATIENT, world.load, world.clock.time()))
    assert isinstance(found, Lease)
    assert found.entry is None


if __name__ == "__main__":
    for each_one in SCENARIOS:
        print(each_one.__name__, *count(each_one), flush=True)
