"""Who takes part: each set up as its own documentation does for production on Redis, and each doing the same work.

Packages of others are imported where they are set up, so that one that is missing is left out, and nobody else is.
"""
