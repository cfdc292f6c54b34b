"""Sessions.

What an app sees: `session` (the mapping), `loading` (the typed way to it). The rules, sans-I/O: `lifecycle` (what a
request may do to a session that others use too), over `record` (its form in the store), `lifetime` and `merge`. Bytes
of HTTP: `cookie`, `headers`, `foreign` (cookies of our name that are not ours). What moves messages: `middleware` (the
way in, with `settings`), `answer` (the way out), `queueing` (savers of one session, one after the other).
"""
