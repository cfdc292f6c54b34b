"""A long race under random faults: `python -m tests.soak` shows that a store neither loses nor undoes what it answered.

`ledger` knows what must be true and catches what is not; `race` is who asks what, and when; `faulty` makes the
in-process store fail (servers fail behind `tests.chaos`); `__main__` puts them together and prints the table.
"""
