"""Every question, in the order in which they are asked."""

from __future__ import annotations

from typing import Final

from benchmarks.questions import caches, cold_start, concurrency, handler, sessions, stampede, store_bytes

QUESTIONS: Final = (
    sessions.QUESTION,
    concurrency.QUESTION,
    store_bytes.QUESTION,
    caches.QUESTION,
    stampede.QUESTION,
    handler.QUESTION,
    cold_start.QUESTION,
)
NAMES: Final = tuple(question.name for question in QUESTIONS)
