"""Every exception of the package.

One root, `ServerlessSessionError`. An error says what cannot be, what was looked at (where that helps) and what to
write; `code` is stable (docs and alerts may name it) and `mend` is the last line alone. No message ever holds a session
id, a store key, a secret or a stored value: only kinds, sizes, times, names of settings and paths of keys.
"""

from __future__ import annotations

from collections.abc import Sequence


class ServerlessSessionError(Exception):
    """Root of the package's errors.

    `code`: a stable name in words-with-dashes. `mend`: what to do about it, one sentence.
    """

    def __init__(self, code: str, what: str, *, looked_at: str = "", mend: str = "") -> None:
        self.code = code
        self.mend = mend
        lines = [f"[{code}] {what}"]
        if looked_at:
            lines.append(f"  looked at: {looked_at}")
        if mend:
            lines.append(f"  write:     {mend}")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:  # constructors differ, so what pickle would do by itself fails
        return _again, (type(self), self.args, self.__dict__)


def _again(
    kind: type[ServerlessSessionError], args: tuple[str, ...], facts: dict[str, object]
) -> ServerlessSessionError:
    error = kind.__new__(kind, *args)
    error.args = args  # of an OSError, as a TimeoutError is, `__new__` leaves it to a constructor
    error.__dict__.update(facts)
    return error


class ConfigurationError(ServerlessSessionError):
    """A setting that cannot work; raised at start-up, before the first request is served."""


def missing_extra(what: str, *, package: str, extra: str) -> ConfigurationError:
    """What `what` needs is not installed; the error names the extra that brings it."""
    return ConfigurationError(
        "missing-extra",
        f"{what} needs the package {package}, which is not installed",
        looked_at="the installed packages",
        mend=f'pip install "serverless-session[{extra}]"',
    )


class SessionError(ServerlessSessionError):
    """The session was used in a way that cannot be carried out; the message names the call to write instead."""


class SessionNotLoaded(SessionError):
    """The session was used before it was loaded (`lazy=True`), or on a path that is `exempt`."""


class SessionConflict(SessionError):
    """Two requests changed the same thing in a session, and `on_conflict="error"` says that neither may win."""

    def __init__(self, places: int) -> None:
        self.places = places
        super().__init__(
            "session-conflict",
            f"another request has changed the same in {places} place{'s' * (places != 1)} of the session meanwhile",
            mend='nothing: it is answered with 409. Where one of the two may win: on_conflict="merge"',
        )


class SessionTooLarge(SessionError):
    """A session grew beyond `max_session_bytes`; nothing was sent and the stored one stands."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes
        super().__init__(
            "session-too-large",
            f"a session of {size_bytes:,} bytes is not kept: the limit is {limit_bytes:,}",
            looked_at="max_session_bytes=",
            mend="less into the session (keep a key of it there, and the rest elsewhere), or a higher limit",
        )


class ComputationTimeout(ServerlessSessionError, TimeoutError):
    """The computation of a cached value took longer than `hard_timeout`, and no older value could be shown."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(
            "computation-timeout",
            f"a value was not computed within {seconds:.2f} s",
            looked_at="hard_timeout= of the CachePolicy",
            mend="a faster source, more time, or stale_if_error= to show the value before it",
        )


# --- stores -----------------------------------------------------------------------------------------------------------


class StoreError(ServerlessSessionError):
    """A store could not do what it was asked."""


class StoreUnavailable(StoreError):
    """The store could not be reached, or refused; nothing was written."""

    def __init__(
        self,
        what: str,
        *,
        code: str = "store-unavailable",
        looked_at: str = "",
        mend: str = "start that server, or the address of one that answers into SERVERLESS_SESSION_STORE",
    ) -> None:
        super().__init__(code, what, looked_at=looked_at, mend=mend)


class StoreTimeout(StoreUnavailable):
    """The store did not answer before the deadline; nothing was written."""

    def __init__(self, what: str, *, seconds: float, looked_at: str = "") -> None:
        self.seconds = seconds
        super().__init__(
            f"{what} within {seconds:.2f} s",
            code="store-timeout",
            looked_at=looked_at,
            mend="start or free that server; or more time: SERVERLESS_SESSION_TIMEOUT, or that of the function",
        )


class WriteUncertain(StoreError):
    """A write was sent, its answer was lost and sending it again did not settle it: it may or may not stand."""

    def __init__(self, what: str, *, looked_at: str = "") -> None:
        mend = "in code: read again what stands there, and decide then. If it is often: a faster server, or more time"
        super().__init__("write-uncertain", what, looked_at=looked_at, mend=mend)


class ValueTooLarge(StoreError):
    """The value exceeds what the store keeps; nothing was sent and the old value stands."""

    def __init__(self, size_bytes: int, largest_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.largest_bytes = largest_bytes
        super().__init__(
            "value-too-large",
            f"a value of {size_bytes:,} bytes does not fit: this store keeps at most {largest_bytes:,}",
            mend="less into it, or a store with a larger limit",
        )


# --- codec ------------------------------------------------------------------------------------------------------------


class CodecError(ServerlessSessionError):
    """A value could not be turned into bytes, or bytes could not be turned back."""


class ValueNotSerializable(CodecError):
    """A value would not come back equal, type for type; `path` leads to it through the keys."""

    def __init__(self, path: Sequence[object], why: str, *, mend: str, called: str = "the value") -> None:
        self.path = tuple(path)
        self.why = why
        where = called + "".join(f"[{part!r}]" for part in self.path[:8]) + ("[...]" if len(self.path) > 8 else "")
        super().__init__("value-not-serializable", f"{where} {why}", mend=mend)

    def below(self, depth: int, called: str) -> ValueNotSerializable:
        """The same error as seen from `depth` levels further down, where the value is `called` so."""
        return ValueNotSerializable(self.path[depth:], self.why, mend=self.mend, called=called)


class UnreadableValue(CodecError):
    """Stored bytes that do not open."""


class DamagedValue(UnreadableValue):
    """The bytes are none of ours, or no longer: they were changed, cut, or moved from another key or app."""

    def __init__(self) -> None:
        super().__init__(
            "damaged-value",
            "a stored value does not open: it was changed, or sealed for another key or namespace",
            mend="nothing: it is treated as missing. If it happens often, somebody else writes to this store",
        )


class UnknownKey(UnreadableValue):
    """Sealed under a key that this key ring lacks: an operator's fault, so nothing is overwritten."""

    def __init__(self) -> None:
        super().__init__(
            "unknown-key",
            "a stored value was sealed with a secret key that is not in this process's key ring",
            looked_at="secret_key=, secret_key_fallbacks=, SERVERLESS_SESSION_SECRET_KEY, ..._SECRET_KEY_FALLBACKS",
            mend="the key that other copies of the app seal with into SERVERLESS_SESSION_SECRET_KEY_FALLBACKS",
        )


class UnknownFormat(UnreadableValue):
    """Written by a newer release, or with a serializer this process does not have: an operator's fault."""

    def __init__(self, what: str) -> None:
        super().__init__(
            "unknown-format", what, mend="deploy the release (or serializer) that wrote it everywhere before it writes"
        )
