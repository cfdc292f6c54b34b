"""For tests of apps and of stores: a clock that is moved by hand, and stores that tell what they were asked."""

from serverless_session.testing.clock import ManualClock
from serverless_session.testing.counting import CountingStore

__all__ = ["CountingStore", "ManualClock"]
