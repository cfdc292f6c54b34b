"""What pages of the documentation say is what there is: the tests they name, their links, their index, their tables."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from serverless_session import (
    Cache,
    CacheContext,
    CachePolicy,
    CacheStats,
    LambdaHandler,
    ServerlessSessionError,
    Session,
    SessionMiddleware,
    errors,
)
from serverless_session.caching import answers, breaker, guarded, lookup, signatures
from serverless_session.events import _LOGGERS, EVENTS
from serverless_session.records import leases, tags
from tests.aws.events import HTTP
from tests.caching.test_trips import ROWS
from tests.docs.pages import ROOT, missing_tests, named_tests, page, part, rows
from tests.test_errors import EXAMPLES

PAGES = sorted((ROOT / "docs").glob("**/*.md"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_names_tests_that_exist_and_links_that_lead_somewhere(path: Path) -> None:
    text = path.read_text()
    assert missing_tests(text) == []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        target, _, part = link.partition("#")
        if ":" in target:
            continue
        there = (path.parent / target) if target else path
        assert there.exists(), link
        assert not part or part in _parts(there), link


def _parts(path: Path) -> set[str]:
    """What a link can point at: the headings, as they are written in addresses."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_index_names_every_page() -> None:
    named = set(re.findall(r"\]\(([^)#]+)\)", page("README.md")))
    pages = {str(path.relative_to(ROOT / "docs")) for path in PAGES} - {"README.md"}
    decisions = {name for name in pages if re.match(r"decisions/\d", name)}  # they have an index of their own
    assert pages - decisions <= named


def test_every_event_stands_in_the_table_as_it_is() -> None:
    said = {cells[0]: cells[1:4] for cells in rows(page("reference/events.md")) if "." in cells[0]}
    is_so = {}
    for name, event in EVENTS.items():
        level = {10: "debug", 20: "info", 30: "warning", 40: "error"}[event.level]
        fields = ", ".join(f"`{field}`" for field in event.fields)
        is_so[f"`{name}`"] = [level, f"`{_LOGGERS[name.partition('.')[0]]}`", fields]
    assert said == is_so


@pytest.mark.parametrize(
    ("name", "documented"),
    [
        ("reference/sessions.md", SessionMiddleware),
        ("reference/lambda.md", LambdaHandler),
        ("reference/caches.md", Cache),
        ("reference/caches.md", CachePolicy),
    ],
)
def test_every_argument_stands_in_the_table_with_its_default(name: str, documented: type) -> None:
    said = [(cells[0], cells[1]) for cells in rows(part(page(name), documented.__name__))]
    parameters = [one for one in inspect.signature(documented).parameters.values() if one.name != "app"]
    is_so = [(f"`{parameter.name}`", _shown(parameter.default)) for parameter in parameters]
    assert said == is_so


def test_every_method_of_a_cache_stands_in_the_table_with_its_arguments() -> None:
    said = [cells[0].strip("`") for cells in rows(part(page("reference/caches.md"), "Methods"))]
    is_so = []
    for name, method in vars(Cache).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            parameters = list(inspect.signature(method).parameters.values())[1:]
            bare = [parameter.replace(annotation=parameter.empty) for parameter in parameters]
            awaited = "await " * inspect.iscoroutinefunction(method)
            is_so.append(f"{awaited}{name}{inspect.Signature(bare)}")
    assert sorted(said) == sorted(is_so)


@pytest.mark.parametrize(("heading", "documented"), [("CacheContext", CacheContext()), ("CacheStats", CacheStats())])
def test_every_attribute_stands_in_the_table(heading: str, documented: object) -> None:
    table = rows(part(page("reference/caches.md"), heading))
    said = [name for cells in table for name in re.findall(r"`(\w+)`", cells[0])]
    assert sorted(said) == sorted(type(documented).__slots__)  # type: ignore[attr-defined]


def test_the_trips_of_a_cache_are_those_that_are_counted() -> None:
    said = [
        (what, int(redis), int(memcached))
        for what, redis, memcached in rows(part(page("reference/caches.md"), "Trips"))
    ]
    assert said == ROWS


def test_every_library_whose_handles_are_left_out_of_keys_is_named() -> None:
    named = set(re.findall(r"`(\w+)`", part(page("reference/caches.md"), "What can be a key")))
    assert signatures._OF_HANDLES - named == set()


def test_the_times_of_a_cache_are_those_in_the_code() -> None:
    text = page("reference/caches.md")
    leased = [cells[1] for cells in rows(part(text, "Leases, and other times"))]
    spans = [
        lookup.LEASE_SECONDS,
        answers.PATIENCE_WITH_OTHERS,
        leases.LONGEST_PAUSE,
        leases.TOMBSTONE_SECONDS,
        leases.PASSAGE_SECONDS,
    ]
    for cell, seconds in zip(leased, spans, strict=False):
        assert f"{seconds:g} s" in cell
    assert leased[-1] == f"{tags.STAMP_SECONDS / 86_400:g} days"
    failing = part(text, "When the store fails")
    assert set(re.findall(r"(\d+) ms", failing)) == {f"{1000 * guarded.PATIENCE:g}"}
    for seconds in (breaker.FIRST_REST, breaker.LONGEST_REST):
        assert f"{seconds:g} s" in failing


def test_the_table_of_senders_has_a_column_for_each() -> None:
    table = page("reference/lambda.md").partition("## Who sends, and what holds\n")[2].partition("\nShown")[0]
    assert {len(cells) for cells in rows(table)} == {1 + len(HTTP)}


def _shown(default: object) -> str:
    match default:
        case inspect.Parameter.empty:
            return ""
        case int() if default > 10_000:
            return f"`{default:_}`"
        case str():
            return f'`"{default}"`'
        case _ if default == {}:
            return "`{}`"
    return f"`{default!r}`"


def test_every_attribute_and_method_of_a_session_stands_in_the_tables() -> None:
    members = part(page("reference/sessions.md"), "Session")
    said = {re.sub(r"\(.*", "", cells[0].strip("`").removeprefix("await ")) for cells in rows(members)}
    is_so = {name for name in vars(Session) if not name.startswith("_")} - set(vars(dict)) | {"clear"}
    assert said == is_so
    for cells in rows(members):
        if "(" in cells[0]:
            signature = cells[0].strip("`").removeprefix("await ")
            name, _, arguments = signature.partition("(")
            parameters = list(inspect.signature(getattr(Session, name)).parameters.values())[1:]
            names = [parameter.name for parameter in parameters]
            assert re.findall(r"(\w+)(?:=[^,)]*)?(?=[,)])", arguments) == names, cells[0]
            awaited = inspect.iscoroutinefunction(getattr(Session, name))
            assert awaited is cells[0].startswith("`await "), cells[0]


def test_every_error_stands_in_the_table_as_it_is() -> None:
    classes = part(page("reference/errors.md"), "Classes")
    said = {cells[0]: cells[1:4] for cells in rows(classes)}
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ServerlessSessionError)
    ]
    assert list(said) == [f"`{kind.__name__}`" for kind in kinds]
    examples = {type(example): example for example in EXAMPLES}
    for kind in kinds:
        below, code, attributes = said[f"`{kind.__name__}`"]
        assert below == f"`{kind.__bases__[0].__name__}`"
        example = examples.get(kind)
        if example is not None and example.code != "code":
            assert code == f"`{example.code}`"
        else:
            assert code == "" or code.startswith("[below]")
        own = vars(example).keys() - {"code", "mend"} if example is not None else set()
        assert set(re.findall(r"`(\w+)`", attributes)) == own


@pytest.mark.parametrize(
    ("section", "kinds"),
    [
        ("ConfigurationError", {"ConfigurationError"}),
        ("SessionError and SessionNotLoaded", {"SessionError", "SessionNotLoaded"}),
        ("the Lambda handler", {"ServerlessSessionError"}),
    ],
)
def test_every_code_of_an_error_stands_in_its_table(section: str, kinds: set[str]) -> None:
    table = part(page("reference/errors.md"), f"Codes of {section}")
    said = [cells[0].strip("`") for cells in rows(table)]
    assert said == sorted(_codes_of(kinds))


def _codes_of(kinds: set[str]) -> set[str]:
    """What the source gives to errors of these classes as their code, read where they are made."""
    found: set[str] = set()
    for path in (ROOT / "serverless_session").glob("**/*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            match call:
                case ast.Call(func=ast.Name(id=name), args=[ast.Constant(value=str(code)), *_]) if name in kinds:
                    found.add(code)
                case ast.Call(func=ast.Name(id=name), args=[made, *_]) if name in kinds:
                    assert ast.unparse(made).startswith("'bad-' + looked_at"), "a code that cannot be read"
                    found |= {"bad-max-age", "bad-idle-timeout", "bad-absolute-timeout"}  # by `Lifetime.of`
    return found


ASVS = {
    "7.1": 3,
    "7.2": 4,
    "7.3": 2,
    "7.4": 5,
    "7.5": 3,
    "7.6": 2,
    "3.3": 5,
}
"""The sections that are walked to the end, and how many requirements each has."""


def test_the_asvs_table_has_every_requirement_and_names_a_test_for_each_that_is_met() -> None:
    said = rows(page("reference/asvs.md"))
    numbers = [cells[0] for cells in said]
    assert len(set(numbers)) == len(numbers)
    for section, count in ASVS.items():
        assert [number for number in numbers if number.startswith(section + ".")] == [
            f"{section}.{number}" for number in range(1, count + 1)
        ]
    for number, _, verdict, _, shown in said:
        assert verdict in ("met", "met by an option", "the app's job", "planned"), number
        assert bool(named_tests(shown)) is verdict.startswith("met"), number
