"""The shop with hooks around a snapshot, as `snapshot_restore_py` takes them; each prints a line."""

import os

from snapshot_restore_py import register_after_restore, register_before_snapshot

from tests.aws.shop import handler as handler


def _before() -> None:
    print("before the snapshot", flush=True)


def _after() -> None:
    print("after the restore", flush=True)
    if os.environ.get("RESTORE_FAILS"):
        raise RuntimeError("no new connection")


register_before_snapshot(_before)
register_after_restore(_after)
