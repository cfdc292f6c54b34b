"""The mapping that an app sees as `request.session`.

A real `dict` with JSON-like values, so everything that takes a dict takes it; as Starlette's, it notes that it was
accessed or modified. Nested changes need no note: the lifecycle compares contents. Our own facts about the session are
attributes in slots, never keys, and a mistyped attribute is an error instead of lost data.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any


class Session(dict[str, Any]):
    """What one visitor's requests remember. Written back when the response starts, if its contents have changed.

    `accessed`, `modified`, `mark_accessed()`: as Starlette's. `is_new`: nothing is stored yet. `created_at`,
    `expires_at`: aware, UTC; `expires_at` is the end that is stored, and moves when the session is written.
    """

    __slots__ = ("_cleared", "_created", "_ends", "_is_new", "_regenerated", "accessed", "modified")

    accessed: bool
    modified: bool

    def __init__(
        self, data: dict[str, Any] | None = None, /, *, created: float = 0.0, ends: float = 0.0, is_new: bool = True
    ) -> None:
        super().__init__(data or {})
        self.accessed = False
        self.modified = False
        self._cleared = False
        self._regenerated = False
        self._created = created
        self._ends = ends
        self._is_new = is_new

    @property
    def is_new(self) -> bool:
        """Nothing was stored for this visitor when the request came."""
        return self._is_new

    @property
    def created_at(self) -> datetime:
        """When the session began."""
        return datetime.fromtimestamp(self._created, UTC)

    @property
    def expires_at(self) -> datetime:
        """When it ends unless it is written again."""
        return datetime.fromtimestamp(self._ends, UTC)

    def logout(self) -> None:
        """End the session: its record is deleted and its cookie removed, and nothing brings it back.

        What is written afterwards in the same request begins a new session, with a new id and only that. Carried out
        when the response starts, also if the request ends in an exception. The same as `clear()`.
        """
        self.clear()

    def regenerate(self) -> None:
        """Give the session a new id, keeping its data; the old id is never followed. For where rights change (login).

        Carried out when the response starts. If the session was ended by another request meanwhile, it stays ended.
        """
        self.mark_modified()
        self._regenerated = True

    def mark_accessed(self) -> None:
        """Note that the session was looked at, so that the response varies with the cookie."""
        self.accessed = True

    def mark_modified(self) -> None:
        """Note that the session was changed."""
        self.accessed = True
        self.modified = True

    def __setitem__(self, key: str, value: Any) -> None:
        self.mark_modified()
        super().__setitem__(key, value)

    def __delitem__(self, key: str) -> None:
        self.mark_modified()
        super().__delitem__(key)

    def clear(self) -> None:
        """Empty the session and end it, as `logout()`."""
        self.mark_modified()
        self._cleared = True
        super().clear()

    def pop(self, key: str, *default: Any) -> Any:
        if key in self:
            self.mark_modified()
        return super().pop(key, *default)

    def popitem(self) -> tuple[str, Any]:
        item = super().popitem()
        self.mark_modified()
        return item

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self.mark_modified()
        return super().setdefault(key, default)

    def update(self, *others: Any, **items: Any) -> None:
        self.mark_modified()
        super().update(*others, **items)

    def __ior__(self, other: Any, /) -> Session:  # type: ignore[override,misc]
        self.mark_modified()
        super().update(other)
        return self

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> Any:
        """So that FastAPI takes it in an annotation."""
        from pydantic_core import core_schema

        return core_schema.is_instance_schema(cls)
