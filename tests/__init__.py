"""The tests, in rooms like those of the package; `servers` starts the real servers, `wire` counts trips to them."""
