"""The conformance suite catches what it is for: every store here is broken in one way, and named beside the check.

A check that never failed proves nothing. So each fails on the store that was broken for it, with the rule that was
broken, and passes on the same store in its right form.
"""

import math
import re
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from serverless_session.stores import MemcachedStore, RedisStore, Store, memcached_conversation
from serverless_session.stores.memcached_links import MemcachedLink, Sent
from serverless_session.testing import ContractBroken, StoreConformance
from serverless_session.testing.conformance.verdicts import TABLE
from tests.servers import Server
from tests.testing import broken
from tests.testing.broken import ExactStore, LinkedStore, SharedStore


class Caught(NamedTuple):
    store: Callable[[], Store]
    check: str
    rule: int
    intact: Callable[[], Store] = ExactStore


CAUGHT = [
    # outcomes
    Caught(broken.NothingIsEmpty, "test_reading_where_nothing_stands_is_missing", TABLE),
    Caught(broken.ReadsOnce, "test_reading_shows_what_was_written", 5),
    Caught(broken.ReadsAReplica, "test_reading_shows_what_was_written", 5),
    Caught(broken.ReadsWhatHasExpired, "test_reading_what_has_expired_is_missing", 4),
    Caught(broken.NoReply, "test_a_write_that_expects_nothing_is_refused_where_something_stands", TABLE),
    Caught(broken.AbsenceIsNotAsked, "test_a_write_that_expects_nothing_is_refused_where_something_stands", TABLE),
    Caught(broken.ConflictShowsNothing, "test_a_write_that_expects_nothing_is_refused_where_something_stands", 3),
    Caught(broken.ReadsAReplica, "test_a_write_that_expects_nothing_takes_a_free_key", 5),
    Caught(broken.ExpiredIsInTheWay, "test_a_write_that_expects_nothing_takes_over_what_has_expired", 4),
    Caught(broken.EqualBytesKeepTheVersion, "test_any_sequence_of_calls_does_what_the_model_does", TABLE),
    Caught(broken.KnowsOnlyItsOwnObjects, "test_a_write_that_expects_a_version_replaces_it", TABLE),
    Caught(broken.NoReply, "test_a_write_that_expects_another_version_is_refused", TABLE),
    Caught(broken.BringsBack, "test_a_write_that_expects_a_version_is_refused_where_nothing_stands", TABLE),
    Caught(broken.NoReply, "test_a_write_that_expects_a_version_which_has_expired_lands_or_finds_nothing", 5),
    Caught(broken.BringsBack, "test_a_write_that_expects_another_version_than_the_expired_finds_nothing", TABLE),
    Caught(broken.AnythingIsSomething, "test_a_write_that_expects_anything_lands_everywhere", TABLE),
    Caught(broken.DeletesInWordsOnly, "test_a_delete_that_expects_a_version_removes_it_once", 5),
    Caught(broken.DeleteAsksNoVersion, "test_a_delete_that_expects_another_version_is_refused", TABLE),
    Caught(broken.DeleteShowsWhatHasExpired, "test_a_delete_of_what_has_expired_finds_nothing_or_that", 4),
    Caught(broken.DeleteWantsAVersion, "test_a_delete_that_expects_anything_removes_what_stands", TABLE),
    Caught(broken.AbsenceIsNotAsked, "test_the_conveniences_say_the_same", TABLE),
    # versions
    Caught(broken.KnowsNoOwnVersion, "test_the_same_write_sent_again_is_written", 2),
    Caught(broken.TakesEveryCopy, "test_a_late_copy_of_a_write_that_was_replaced_is_refused", 2),
    Caught(broken.DeleteAsksNoVersion, "test_a_delete_sent_again_is_missing", 2),
    Caught(broken.EqualBytesKeepTheVersion, "test_equal_bytes_are_another_version", 1),
    Caught(broken.ComparesCounters, "test_no_version_comes_back_when_a_key_is_deleted_and_made_again", 1),
    Caught(broken.VersionEndsAtAZero, "test_a_version_is_8_bytes_and_nothing_else", 1),
    Caught(broken.KnowsOnlyItsOwnObjects, "test_a_version_known_only_as_bytes_is_as_good", 1),
    Caught(broken.TrustsWhatItRead, "test_a_version_learned_through_another_store_object_is_as_good", 1, SharedStore),
    Caught(
        broken.TrustsWhatItRead,
        "test_what_a_store_remembers_of_a_version_is_worth_nothing_after_anothers_write",
        1,
        SharedStore,
    ),
    # values, keys, sizes
    Caught(broken.EndsAtAZero, "test_every_value_comes_back_byte_for_byte", TABLE),
    Caught(broken.EndsAtALineEnd, "test_every_value_comes_back_byte_for_byte", TABLE),
    Caught(broken.CutsKeys, "test_every_key_is_its_own", TABLE),
    Caught(broken.FoldsCase, "test_upper_and_lower_case_are_different_keys", TABLE),
    Caught(broken.LargestIsOneLess, "test_the_largest_value_is_kept", 8),
    Caught(
        broken.SendsWhatIsTooLarge, "test_one_byte_more_than_the_largest_value_is_refused_and_the_old_value_stands", 8
    ),
    Caught(broken.TooLargeDeletes, "test_one_byte_more_than_the_largest_value_is_refused_and_the_old_value_stands", 8),
    Caught(broken.OneFailureEndsTheCall, "test_a_value_that_is_too_large_does_not_touch_its_neighbours", 6),
    # calls
    Caught(broken.ReadsComeFirst, "test_each_of_several_operations_has_its_own_outcome_in_the_order_given", 6),
    Caught(broken.ACallIsATransaction, "test_each_of_several_operations_has_its_own_outcome_in_the_order_given", 6),
    Caught(broken.LosesTheLastOfMany, "test_many_operations_go_into_one_call", 6),
    Caught(broken.OneFailureRaises, "test_one_failure_among_others_is_one_outcome", 6),
    Caught(broken.OneFailureEndsTheCall, "test_one_failure_among_others_is_one_outcome", 6),
    Caught(broken.NothingToDoIsAnError, "test_a_call_of_nothing_has_no_outcomes", 6),
    Caught(broken.TakesKeysTwice, "test_a_key_that_stands_twice_in_one_call_is_refused_before_anything_is_done", 6),
    Caught(broken.ConveniencesSwallow, "test_a_convenience_raises_the_error_of_its_outcome", 8),
    Caught(broken.TimesOutAndWrites, "test_a_call_without_time_left_ends_at_once", 9),
    Caught(broken.ClosesForGood, "test_a_closed_store_opens_anew", 6),
    Caught(broken.BelongsToItsFirstLoop, "test_one_store_object_serves_one_loop_after_the_other", 6),
    # expiry
    Caught(broken.FloorsTheTtl, "test_a_value_lives_as_long_as_asked_and_at_most_2_s_longer", 4),
    Caught(broken.TicksInSeconds, "test_a_value_lives_as_long_as_asked_and_at_most_2_s_longer", 4),
    Caught(broken.ExpiresLate, "test_a_value_lives_as_long_as_asked_and_at_most_2_s_longer", 4),
    Caught(broken.FloorsTheTtl, "test_a_write_that_was_sent_again_lives_no_shorter", 4),
    Caught(broken.KeepsTheFirstEnd, "test_a_write_over_a_short_life_begins_a_new_one", 4),
    Caught(broken.KeepsTheFirstEnd, "test_a_write_over_a_long_life_may_begin_a_short_one", 4),
    Caught(broken.NeverExpires, "test_the_shortest_life_is_taken", 4),
    Caught(broken.MonthsAreDates, "test_what_is_to_live_for_a_year_stands_now_and_can_be_replaced_and_deleted", 4),
    Caught(
        broken.MillisecondsIn32Bits, "test_what_is_to_live_for_a_year_stands_now_and_can_be_replaced_and_deleted", 4
    ),
    # races
    Caught(broken.ReadsThenWrites, "test_no_increment_is_lost", 3),
    Caught(broken.ConflictShowsASnapshot, "test_no_increment_is_lost", 3),
    Caught(broken.ReadsThenWrites, "test_one_of_many_claims_wins", 3),
    Caught(broken.NoReply, "test_one_of_many_claims_wins", 3),
    Caught(broken.LookFirstDecides, "test_one_of_many_claims_wins", 3),
    Caught(broken.TakesOverTwice, "test_one_of_many_claims_wins_what_has_expired", 3),
    Caught(broken.DeletesTwice, "test_one_of_many_deletes_deletes", 3),
    Caught(broken.ReadsThenWrites, "test_a_delete_and_writes_that_expect_the_same_version_exclude_each_other", 3),
    # cancellation
    Caught(
        broken.LeavesTheAnswerForTheNext,
        "test_a_storm_of_cancellations_tells_nobody_what_is_not_so",
        9,
        LinkedStore,
    ),
    Caught(broken.KeepsCancellationToItself, "test_a_call_that_is_cancelled_is_cancelled", 9, LinkedStore),
    # any sequence
    Caught(broken.RemembersWhatItWrote, "test_any_sequence_of_calls_does_what_the_model_does", TABLE),
]


def test_every_check_has_a_store_that_it_catches() -> None:
    checks = {name for name in dir(StoreConformance) if name.startswith("test_")}
    assert {caught.check for caught in CAUGHT} == checks


def run(check: str, open_store: Callable[[], Store]) -> None:
    class Suite(StoreConformance):
        storm_calls = 1_500

        async def open_store(self) -> Store:
            return open_store()

    getattr(Suite(), check)()


@pytest.mark.parametrize("caught", CAUGHT, ids=lambda caught: f"{caught.store.__name__}-{caught.check}")
def test_a_broken_store_is_caught(caught: Caught) -> None:
    with pytest.raises(ContractBroken) as failure:
        run(caught.check, caught.store)
    assert failure.value.rule == caught.rule, str(failure.value)


INTACT = sorted({(caught.intact, caught.check) for caught in CAUGHT}, key=lambda pair: (pair[0].__name__, pair[1]))


@pytest.mark.parametrize(("intact", "check"), INTACT, ids=lambda part: getattr(part, "__name__", part))
def test_the_store_that_it_was_made_from_passes(intact: Callable[[], Store], check: str) -> None:
    run(check, intact)


# --- on a real server -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "broken", "check", "rule"),
    [
        (rb"string\.sub\(ARGV\[2\],1,8\)", b"'no version'", "test_the_same_write_sent_again_is_written", 2),
        (rb"if h==ARGV\[1\] then", b"if true then", "test_no_increment_is_lost", 3),
        (rb"'PX'", b"'EX'", "test_a_value_lives_as_long_as_asked_and_at_most_2_s_longer", 4),
        (
            rb"==ARGV\[1\] then return redis\.call\('DEL'",
            rb"~='' then return redis.call('DEL'",
            "test_a_delete_that_expects_another_version_is_refused",
            TABLE,
        ),
    ],
    ids=["knows no own version", "writes without condition", "takes milliseconds for seconds", "deletes anything"],
)
def test_a_broken_script_is_caught(
    valkey: Server, monkeypatch: pytest.MonkeyPatch, script: bytes, broken: bytes, check: str, rule: int
) -> None:
    run(check, lambda: RedisStore(valkey.url))
    break_scripts(monkeypatch, script, broken)
    with pytest.raises(ContractBroken) as failure:
        run(check, lambda: RedisStore(valkey.url))
    assert failure.value.rule == rule, str(failure.value)


def break_scripts(monkeypatch: pytest.MonkeyPatch, right: bytes, wrong: bytes) -> None:
    """Replace part of the Redis store's scripts, in whichever of its modules they stand."""
    changed = 0
    for module in [module for name, module in sys.modules.items() if name.startswith("serverless_session.stores.")]:
        for name, script in list(vars(module).items()):
            if isinstance(script, bytes) and b"redis.call" in script and re.search(right, script):
                monkeypatch.setattr(module, name, re.sub(right, lambda _: wrong, script))
                changed += 1
    assert changed, "no script of the Redis store reads like this any more: adapt the patterns above"


def as_it_is(ttl: float) -> int:
    """Without its one second more: memcached's clock may tick at once."""
    return math.ceil(ttl)


def never_a_date(ttl: float) -> int:
    """Memcached takes a span over 30 days for a date long ago."""
    return math.ceil(ttl) + 1


def without_an_answer(self: MemcachedLink, key: str, kept: bytes, expire: int, sent: Sent) -> bool:
    """As pymemcache adds unless told otherwise: it waits for nothing, and says that it was stored."""
    return bool(self._ask(sent, self._client.add, key, kept, expire, True))


@pytest.mark.parametrize(
    ("owner", "name", "wrong", "check", "rule"),
    [
        (memcached_conversation, "_expire", as_it_is, "test_a_value_lives_as_long_as_asked_and_at_most_2_s_longer", 4),
        (
            memcached_conversation,
            "_expire",
            never_a_date,
            "test_what_is_to_live_for_a_year_stands_now_and_can_be_replaced_and_deleted",
            4,
        ),
        (MemcachedLink, "add", without_an_answer, "test_one_of_many_claims_wins", 3),
    ],
    ids=["a tick too short", "months as spans", "noreply"],
)
def test_a_broken_memcached_store_is_caught(
    memcached: Server, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, wrong: Any, check: str, rule: int
) -> None:
    run(check, lambda: MemcachedStore(memcached.url))
    monkeypatch.setattr(owner, name, wrong)
    with pytest.raises(ContractBroken) as failure:
        run(check, lambda: MemcachedStore(memcached.url))
    assert failure.value.rule == rule, str(failure.value)
