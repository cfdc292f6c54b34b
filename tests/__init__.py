"""The tests, in rooms like those of the package.

`servers` starts the real servers, `wire` counts trips to them, `chaos` makes the way to them fail, `soak` races on it.
"""
