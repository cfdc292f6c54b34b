"""The mapping that an app sees as `request.session`.

A real `dict` with JSON-like values, so everything that takes a dict takes it; as Starlette's, it notes that it was
accessed or modified. Nested changes need no note: the lifecycle compares contents. Our own facts about the session are
attributes in slots, never keys, and a mistyped attribute is an error instead of lost data.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple


class Asked(NamedTuple):
    """What the app has asked for beside its changes: an ending, a new id."""

    ending: bool = False
    new_id: bool = False


class Session(dict[str, Any]):
    """What one visitor's requests remember.

    Written back when the response starts, and once more before its last chunk and when the app returns, each time only
    if its contents have changed. What other requests change meanwhile is merged in the store, not in this mapping.
    `accessed`, `modified` and `mark_accessed()` are as Starlette's.
    """

    __slots__ = ("_asked", "_created", "_ends", "_is_new", "accessed", "modified")

    accessed: bool
    modified: bool

    def __init__(
        self, data: dict[str, Any] | None = None, /, *, created: float = 0.0, ends: float = 0.0, is_new: bool = True
    ) -> None:
        super().__init__(data or {})
        self.accessed = False
        self.modified = False
        self._asked = Asked()
        self._created = created
        self._ends = ends
        self._is_new = is_new

    @property
    def is_new(self) -> bool:
        """Nothing was stored for this visitor when the request came."""
        return self._is_new

    @property
    def created_at(self) -> datetime:
        """When the session began: aware, UTC. A new id leaves it as it is."""
        return datetime.fromtimestamp(self._created, UTC)

    @property
    def expires_at(self) -> datetime:
        """When it ends unless it is prolonged: aware, UTC. A change prolongs it once a tenth of its life is gone."""
        return datetime.fromtimestamp(self._ends, UTC)

    def logout(self) -> None:
        """End the session: its record is deleted and its cookie removed, and nothing brings it back.

        What is written afterwards, before the response starts, begins a new session with a new id and only that. The
        ending is carried out when the response starts, and also if the request ends in an exception. The same as
        `clear()`. Where the store fails, the answer is a 503 and the session may still stand.
        """
        self.clear()

    def regenerate(self) -> None:
        """Give the session a new id, keeping its data; the old id is never followed. For where rights change (login).

        Carried out when the response starts; asked for later it raises `SessionError` (session-too-late), because no
        cookie can follow. If another request ended the session meanwhile, it stays ended and no cookie is set.
        """
        self.mark_modified()
        self._asked = self._asked._replace(new_id=True)

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
        self._asked = self._asked._replace(ending=True)
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

    # --- for the lifecycle --------------------------------------------------------------------------------------------

    def _take_asked(self) -> Asked:
        """What was asked for since it was last taken."""
        asked, self._asked = self._asked, Asked()
        return asked

    def _ask_again(self, asked: Asked) -> None:
        """It could not be carried out."""
        self._asked = Asked(self._asked.ending or asked.ending, self._asked.new_id or asked.new_id)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> Any:
        """So that FastAPI takes it in an annotation."""
        from pydantic_core import core_schema

        return core_schema.is_instance_schema(cls)
