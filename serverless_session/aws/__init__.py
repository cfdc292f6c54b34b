"""On AWS Lambda: the only room that knows of it."""
