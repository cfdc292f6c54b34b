"""Sessions.

`session` is the mapping the app sees, `cookie` ids and headers, `merge` and `lifecycle` the rules (sans-I/O),
`middleware` and `answer` move messages, `loading` is the typed way to the session.
"""
