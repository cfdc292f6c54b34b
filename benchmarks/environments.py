"""Empty virtual environments with just what a program needs, for cold starts.

What an interpreter finds beside a program decides what it loads: a `.pth` file in its site-packages runs at every
start, and entry points and optional packages are found where they are installed. So each program gets an environment of
its own, made of the distributions that are installed here, in these versions, copied file by file; nothing is fetched.
They are kept between runs, in a folder of the system's for temporary files.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Final

import serverless_session

OURS: Final = "serverless-session"
FOLDER: Final = Path(tempfile.gettempdir()) / "serverless-session-benchmarks"
_OUR_FOLDER: Final = Path(serverless_session.__file__).parent


def python_with(*requirements: str) -> Path:
    """The interpreter of an environment with these distributions and what they need. Raises `ImportError`."""
    distributions = closure(requirements)
    folder = FOLDER / _fingerprint(distributions)
    python = folder / "bin" / "python"
    if not folder.exists():
        FOLDER.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=FOLDER) as unfinished:
            made = Path(unfinished) / "environment"
            _make(made, distributions)
            made.rename(folder)
    return python


def closure(requirements: tuple[str, ...]) -> dict[str, importlib.metadata.Distribution]:
    """The named distributions, those they need, and so on, by their names. Raises `ImportError` if one is missing."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = [(requirement, True) for requirement in requirements]
    seen: set[str] = set()
    while waiting:
        requirement, is_named = waiting.pop()
        if requirement in seen:
            continue
        seen.add(requirement)
        name, extras = _parsed(requirement)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            if is_named:
                raise ImportError(f"{name} is not installed") from None
            continue  # of another platform or another Python
        found[name] = distribution
        for needed in distribution.requires or ():
            head, _, marker = needed.partition(";")
            extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", marker)
            if extra is None or extra[1] in extras:
                waiting.append((re.sub(r"[\s(<>=!~].*", "", head.strip()), False))
    return found


def _parsed(requirement: str) -> tuple[str, set[str]]:
    """`name[one,two]`, in the form in which names are compared."""
    name, _, extras = requirement.partition("[")
    return re.sub(r"[-_.]+", "-", name).lower(), set(filter(None, extras.rstrip("]").split(",")))


def _fingerprint(distributions: dict[str, importlib.metadata.Distribution]) -> str:
    digest = hashlib.sha256(sys.version.encode())
    for name, distribution in sorted(distributions.items()):
        digest.update(f"{name} {distribution.version}\n".encode())
    if OURS in distributions:
        for path in sorted(_OUR_FOLDER.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _make(folder: Path, distributions: dict[str, importlib.metadata.Distribution]) -> None:
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    site = next(folder.glob("lib/python*/site-packages"))
    for name, distribution in distributions.items():
        if name == OURS:
            shutil.copytree(_OUR_FOLDER, site / _OUR_FOLDER.name, ignore=shutil.ignore_patterns("__pycache__"))
            continue
        for file in distribution.files or ():
            if ".." in file.parts or file.suffix == ".pyc":
                continue
            there = site / file
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(str(file.locate()), there)
    compiling = [str(folder / "bin" / "python"), "-I", "-m", "compileall", "-q", str(site)]
    subprocess.run(compiling, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
