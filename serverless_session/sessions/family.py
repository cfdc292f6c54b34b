"""The records that one session has become, and how an ending or a deletion reaches all of them.

An id that was given up leaves a stone, which names its successors. Where two requests gave one session a new id at the
same time there are two successors, and each names the other as its sibling: whichever cookie the browser ends with, a
logout ends both. The later of the two makes the earlier one name it (`join`), by compare-and-set; so an ending of the
earlier one either came before, and the later one is taken back, or it finds the name. A sibling that gets a new id
itself tells the others: its stone would be gone before them.

Sans-I/O, as `lifecycle`, whose rules these are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from serverless_session.sessions.merge import without
from serverless_session.sessions.record import Record, Steps, ask, data_of, pack_session, pack_stone
from serverless_session.stores.contract import Delete, Deleted, Read, Write, Written, new_version

if TYPE_CHECKING:
    from serverless_session.records.records import Vault


def end_record(vault: Vault, record: Record) -> Steps[bool]:
    """Delete a record by version: a stone after its successors, a session before its siblings. True: one was live."""
    ended = False
    while True:
        ended |= yield from end_all(vault, record.successors)
        answer = yield from ask(vault, Delete(record.key, expect=record.version))
        if not isinstance(answer, Record):
            ended |= isinstance(answer, Deleted) and record.facts is not None
            return (yield from end_all(vault, siblings_of(record))) or ended
        record = answer


def end_all(vault: Vault, keys: Sequence[str]) -> Steps[bool]:
    """End what stands under keys of the family. True: something of it was live."""
    ended = False
    for key in keys:
        found = yield from ask(vault, Read(key))
        if isinstance(found, Record):
            ended |= yield from end_record(vault, found)
    return ended


def delete_in(vault: Vault, record: Record, paths: Sequence[Sequence[str]], now: float) -> Steps[None]:
    """Delete what stands at the ends of paths: on a stone, for who names one more successor, then in its successors."""
    while not record.ended:
        left = without(data_of(vault, record.packed), paths)
        if record.facts is None:
            packed = pack_stone(vault, record.successors, left, ended=False)
        else:
            packed = pack_session(vault, record.facts, left)
        if packed == record.packed:
            break
        ttl = record.ends_at - now
        write = Write(record.key, packed, ttl=ttl, version=new_version(), expect=record.version)
        answer = yield from ask(vault, write)
        if not isinstance(answer, Record):
            break
        record = answer
    if not record.ended:
        yield from delete_in_all(vault, record.successors, paths, now)


def delete_in_all(vault: Vault, keys: Sequence[str], paths: Sequence[Sequence[str]], now: float) -> Steps[None]:
    """The same under keys of the family."""
    for key in keys:
        found = yield from ask(vault, Read(key))
        if isinstance(found, Record):
            yield from delete_in(vault, found, paths, now)


def join(
    vault: Vault, key: str, new: str, now: float, *, in_place_of: str | None = None
) -> Steps[list[dict[str, Any]] | None]:
    """Let the session under `key`, or what it has become, name `new` as its sibling, in place of one that is left.

    What these sessions hold; None: one of them has ended, and with it whatever came of the id that they share.
    """
    found = yield from ask(vault, Read(key))
    while isinstance(found, Record) and found.facts is not None:
        data = data_of(vault, found.packed)
        siblings = union([its for its in siblings_of(found) if its != in_place_of], [new])
        packed = pack_session(vault, found.facts._replace(siblings=siblings), data)
        ttl = found.ends_at - now
        write = Write(key, packed, ttl=ttl, version=new_version(), expect=found.version)
        answer = yield from ask(vault, write)
        if isinstance(answer, Written):
            return [data]
        found = answer
    if not isinstance(found, Record) or found.ended:
        return None
    held = []
    for successor in found.successors:
        its = yield from join(vault, successor, new, now, in_place_of=in_place_of)
        if its is None:
            return None
        held += its
    return held


def union(*groups: Sequence[str]) -> list[str] | None:
    """Each key once; None: there is none."""
    return list(dict.fromkeys(key for group in groups for key in group)) or None


def siblings_of(record: Record) -> Sequence[str]:
    """The keys of what came of the same id at the same time."""
    return (record.facts.siblings or ()) if record.facts is not None else ()
