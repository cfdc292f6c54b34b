"""What happens that an operator may want to know: stable names, each with a level, a sentence and its fields.

Events go to the standard `logging`. A record's message is `name: sentence`, and the same is on the record as
attributes: `record.event`, and one for each field. Fields are counts, sizes, and codes and sentences of our own errors:
never an id, a key or a value. Where nobody listens at an event's level, nothing is put together.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple


class Event(NamedTuple):
    """`fields` are what a record carries beside its message; most of them stand in the sentence."""

    level: int
    sentence: str
    fields: tuple[str, ...] = ()


EVENTS: Final[Mapping[str, Event]] = MappingProxyType(
    {
        "session.conflict_merged": Event(logging.INFO, "two requests changed a session at once; both changes are kept"),
        "session.conflict_overridden": Event(
            logging.WARNING,
            "two requests changed a session at once, the same in {places} places; the later one won",
            ("places",),
        ),
        "session.conflict_refused": Event(
            logging.WARNING,
            "two requests changed a session at once, the same in {places} places; one was refused",
            ("places",),
        ),
        "session.ended_elsewhere": Event(
            logging.INFO, "a session ended or got a new id while a request ran; that one's changes are dropped"
        ),
        "session.too_large": Event(
            logging.ERROR,
            "a session of {size_bytes} bytes is above max_session_bytes={limit_bytes}; the stored one stands",
            ("size_bytes", "limit_bytes"),
        ),
        "session.renewal_failed": Event(
            logging.WARNING, "a session could not be prolonged ({error}); it ends when it was to end before", ("error",)
        ),
        "session.save_failed": Event(
            logging.ERROR,
            "a session could not be saved ({error}), for a request that was cancelled meanwhile",
            ("error",),
        ),
        "session.ending_failed": Event(
            logging.ERROR,
            "a session that was to end may still stand: its request failed, and the store too ({error})",
            ("error",),
        ),
        "session.several_ids": Event(
            logging.WARNING, "a request carried several genuine session cookies; none of them was used"
        ),
        "session.foreign_page": Event(
            logging.WARNING, "a page of another site opened a WebSocket; it gets an empty session"
        ),
        "session.foreign_cookie": Event(
            logging.INFO, "another part of the app sets a cookie of the session's name; it goes by another name"
        ),
        "session.anonymous": Event(
            logging.ERROR, "a store failed ({error}), and a visitor with a session is served without one", ("error",)
        ),
        "store.unavailable": Event(logging.ERROR, "a store failed, and a request with it: {what}", ("error", "what")),
        "store.unreadable": Event(
            logging.ERROR,
            "what a store holds cannot be opened by this copy of the app; it is left as it is: {what}",
            ("error", "what"),
        ),
        "shared.defaults": Event(logging.WARNING, "{defaults}", ("defaults",)),
        "shared.weak_secret": Event(
            logging.WARNING, "{weakness}; any other store than memory:// would refuse it", ("weakness",)
        ),
        "cache.store_failed": Event(
            logging.WARNING,
            "a cache's store failed, and values are computed without it until it answers again: {what}",
            ("error", "what"),
        ),
        "cache.store_back": Event(logging.INFO, "a cache's store answers again"),
        "cache.too_large": Event(
            logging.WARNING,
            "a value of {size_bytes} bytes is not kept: the store takes {limit_bytes}",
            ("size_bytes", "limit_bytes"),
        ),
        "cache.request_was_read": Event(
            logging.WARNING,
            "{function} is cached, and has read of the request that it was given what its key does not hold ({read}),"
            " so nothing was kept; take what counts as a parameter, or name it in key=",
            ("function", "read"),
        ),
        "cache.blocks_the_loop": Event(
            logging.WARNING,
            "{function} is cached, not async, and called where an event loop runs, which waits for it meanwhile;"
            " there, call `await {function}.aio(...)`",
            ("function",),
        ),
        "lambda.app_raised": Event(logging.ERROR, "the app raised an exception"),
        "lambda.answer_too_large": Event(
            logging.ERROR,
            "an answer of {size_bytes} bytes is above the limit of {limit_bytes}; a 500 left in its place",
            ("size_bytes", "limit_bytes"),
        ),
        "lambda.timed_out": Event(
            logging.ERROR,
            "the app took all the time there was and was cancelled; a 503 left, unless its answer was complete",
        ),
        "lambda.kept_running": Event(
            logging.ERROR,
            "the app was cancelled and went on (a thread under a middleware, code that catches all); it was left there",
        ),
        "lambda.lifespan_failed": Event(logging.ERROR, "the app's lifespan failed after its start-up"),
        "lambda.no_lifespan": Event(logging.DEBUG, "the app does not support lifespan"),
    }
)

_LOGGERS: Final = {
    "session": "serverless_session.sessions",
    "store": "serverless_session.stores",
    "shared": "serverless_session",
    "cache": "serverless_session.caching",
    "lambda": "serverless_session.aws",
}


def tell(name: str, fields: Mapping[str, int | str] = MappingProxyType({}), *, exc_info: bool = False) -> None:
    """Log an event of `EVENTS`, with all of its fields."""
    event = EVENTS[name]
    logger = logging.getLogger(_LOGGERS[name.partition(".")[0]])
    if logger.isEnabledFor(event.level):
        assert fields.keys() == set(event.fields)
        message, extra = event.sentence.format(**fields), {"event": name, **fields}
        logger.log(event.level, "%s: %s", name, message, extra=extra, exc_info=exc_info, stacklevel=2)
