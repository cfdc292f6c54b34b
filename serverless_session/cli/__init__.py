"""The command line, `serverless-session`: one module a command."""

from __future__ import annotations
