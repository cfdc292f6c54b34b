"""What tests of caches share."""

import pytest

from serverless_session.caching import guarded


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a real server may take longer to answer than a cache waits for it."""
    monkeypatch.setattr(guarded, "PATIENCE", 5.0)
