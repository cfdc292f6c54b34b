"""The tutorial for Lambda: its files and its shell commands, run from the first to the last in an empty folder.

What needs an AWS account says so in its first line, and is only read. For pip there is an index in a folder: the
package's real wheel is built into it by the tutorial, what it needs is empty, in as many builds as an index would have
of it. So the commands are those of the page, nothing is downloaded, and a wrong wheel would be seen.
"""

import json
import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from typing import Final

import pytest

from tests.docs.pages import ROOT, page

PAGE: Final = "tutorials/lambda-behind-api-gateway.md"
IN_AWS: Final = "# in your AWS account\n"

NEEDED: Final = {
    "fastapi": ["pydantic"],
    "pydantic": ["pydantic-core"],
    "starlette": [],
    "mangum": [],
    "redis": [],
}
"""Packages without machine code, and what they need."""
BUILDS: Final = [
    f"{python}-{abi}-{system}"
    for python, abi in (("cp311", "cp311"), ("cp313", "cp313"), ("cp311", "abi3"))
    for system in ("manylinux2014_x86_64", "manylinux2014_aarch64", "macosx_11_0_arm64", "musllinux_1_2_x86_64")
]


def files() -> dict[str, str]:
    """What the page says is to be written into files: `name`: and a block."""
    found = re.findall(r"^`([\w.]+)`:\n\n(?:<!--- skip: next -->\n\n)?```\w+\n(.*?)^```$", page(PAGE), re.M | re.S)
    return dict(found)


def commands() -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```$", page(PAGE), re.M | re.S)


def _add_wheel(index: Path, name: str, build: str, needs: list[str]) -> None:
    module = name.replace("-", "_")
    about = f"{module}-99.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 99\n" + "".join(f"Requires-Dist: {n}\n" for n in needs)
    with zipfile.ZipFile(index / f"{module}-99-{build}.whl", "w") as wheel:
        wheel.writestr(f"{module}/__init__.py", "")
        wheel.writestr(f"{module}/{build}.so", "")
        wheel.writestr(f"{about}/METADATA", metadata)
        wheel.writestr(f"{about}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {build}\n")
        wheel.writestr(f"{about}/RECORD", "")


@pytest.fixture
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A shell with this Python, in which pip knows a folder in place of an index."""
    for installed in ("fastapi", "mangum", "redis", "serverless-session"):
        distribution(installed)  # so that pip finds them there, and puts nothing into our own environment
    index = tmp_path_factory.mktemp("index")
    for name, needs in NEEDED.items():
        _add_wheel(index, name, "py3-none-any", needs)
    for name in ("cryptography", "pydantic-core"):
        for build in BUILDS:
            _add_wheel(index, name, build, [])
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("SERVERLESS_SESSION_", "AWS_"))}
    return ours | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "CHECKOUT": str(ROOT),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_FIND_LINKS": str(index),
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it the other way round: what builds is not fetched
        "PIP_NO_INDEX": "1",
    }


def run(script: str, folder: Path, environment: dict[str, str]) -> str:
    for name, text in files().items():
        (folder / name).write_text(text)
    of_this_python = 'pip() { python -m pip "$@"; }\n'
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", of_this_python + script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize("cpu", ["x86_64", "aarch64"])
def test_the_commands_run_from_the_app_to_the_zip(cpu: str, tmp_path: Path, environment: dict[str, str]) -> None:
    script = "".join(block for block in commands() if not block.startswith(IN_AWS))
    assert "manylinux2014_x86_64" in script
    printed = run(script.replace("manylinux2014_x86_64", f"manylinux2014_{cpu}"), tmp_path, environment)
    played = re.search(r"^```text\n(POST .*?)^```$", page(PAGE), re.M | re.S)
    assert played is not None
    assert printed.startswith(played[1])
    told = re.search(r"^```text\n(\[no-store\].*?)^```$", page(PAGE), re.M | re.S)
    assert told is not None
    assert told[1] in (tmp_path / "told").read_text(), "the error in three lines"
    assert re.fullmatch(r"[\w-]{43}\n", (tmp_path / "secret-key").read_text())
    with zipfile.ZipFile(tmp_path / "shop.zip") as packed:
        names = packed.namelist()
        assert packed.read("app.py").decode() == files()["app.py"]
    assert {"serverless_session/__init__.py", "serverless_session/aws/handler.py", "mangum/__init__.py"} <= set(names)
    binaries = [name for name in names if name.endswith(".so") and "none-any" not in name]
    assert sorted(binaries) == [
        f"{name}/cp313-cp313-manylinux2014_{cpu}.so" for name in ("cryptography", "pydantic_core")
    ]
    assert any(re.fullmatch(r"__pycache__/app\.cpython-\d+\.pyc", name) for name in names)


def test_what_needs_an_account_says_so_and_is_a_script(tmp_path: Path, environment: dict[str, str]) -> None:
    for block in commands():
        needs_it = re.search(r"^\s*aws |\$\(aws |\$URL", block, re.M) is not None
        assert block.startswith(IN_AWS) is needs_it, block
        subprocess.run(["bash", "-n", "-c", block], check=True)


def test_the_event_is_one_that_the_handler_knows() -> None:
    from mangum.types import LambdaConfig

    from serverless_session.aws.http_events import ADAPTERS, HttpApiEvent

    event = json.loads(files()["event.json"])
    config = LambdaConfig(api_gateway_base_path="/", text_mime_types=[], exclude_headers=[])
    assert [kind for kind in ADAPTERS if kind.infer(event, None, config)] == [HttpApiEvent]  # type: ignore[arg-type]
