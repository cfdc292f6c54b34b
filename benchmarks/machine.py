"""What a run was made on: the machine, the interpreter, and the versions of everybody who took part."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any, Final

DISTRIBUTIONS: Final = (
    "serverless-session",
    "starlette",
    "cryptography",
    "redis",
    "hiredis",
    "msgpack",
    "mangum",
    "starsessions",
    "litestar",
    "flask",
    "flask-session",
    "msgspec",
    "fastapi",
    "fastapi-cache2",
    "aiocache",
    "cashews",
    "dogpile.cache",
    "uvloop",
)


def machine(core: int | None) -> dict[str, Any]:
    """`core`: the one that everything is pinned to, or None."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "pinned_to_core": core if core is not None else "no: this platform cannot",
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load_at_start": _load(),
    }


def versions(server: str) -> dict[str, str]:
    """Of what is installed; what is not is not in it."""
    found = {"server": server}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _load() -> float | str:
    """Others who run meanwhile: above 0.5 the figures are worth less."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return "unknown"
