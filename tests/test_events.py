"""What is common to all events: their names, sentences and fields agree with what the package tells."""

import ast
import logging
import re
import string
from collections.abc import Iterator
from pathlib import Path

import pytest

import serverless_session
from serverless_session.events import EVENTS, tell

PACKAGE = Path(serverless_session.__file__).parent
NAME = re.compile(r"(session|store|shared|cache|lambda)\.[a-z]+(_[a-z]+)*")

each_event = pytest.mark.parametrize("name", EVENTS)


def sample(name: str) -> dict[str, int | str]:
    return {field: f"the {field}" for field in EVENTS[name].fields}


def named_in(sentence: str) -> set[str]:
    return {field for _, field, _, _ in string.Formatter().parse(sentence) if field is not None}


@each_event
def test_a_sentence_names_fields_of_its_event_alone(name: str) -> None:
    event = EVENTS[name]
    assert NAME.fullmatch(name)
    assert named_in(event.sentence) <= set(event.fields)
    assert len(set(event.fields)) == len(event.fields)
    assert event.level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
    assert event.sentence == event.sentence.strip().rstrip(".")


@each_event
def test_a_record_carries_the_event_its_fields_and_a_sentence(name: str, caplog: pytest.LogCaptureFixture) -> None:
    for logger in (None, "serverless_session"):  # an example of the documentation sets a level of its own
        caplog.set_level(logging.DEBUG, logger)
    tell(name, sample(name))
    (record,) = caplog.records
    assert record.__dict__["event"] == name
    assert {field: record.__dict__[field] for field in EVENTS[name].fields} == sample(name)
    assert record.getMessage() == f"{name}: {EVENTS[name].sentence.format(**sample(name))}"
    assert record.levelno == EVENTS[name].level
    assert record.name.partition(".")[0] == "serverless_session"
    assert record.filename == Path(__file__).name, "it names who told, not where it is told"
    assert not record.exc_info


@each_event
def test_no_field_has_the_name_of_something_else_on_a_record(name: str) -> None:
    taken = logging.makeLogRecord({}).__dict__.keys() | {"message", "asctime", "event", "taskName"}
    assert taken.isdisjoint(EVENTS[name].fields)


class Loud(str):
    """Tells whether it was put into a sentence."""

    formatted = 0

    def __format__(self, spec: str) -> str:
        type(self).formatted += 1
        return str(self)


@pytest.fixture
def silent() -> Iterator[None]:
    loggers = [logging.getLogger(), logging.getLogger("serverless_session")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.mark.usefixtures("silent")
@each_event
def test_where_nobody_listens_nothing_is_put_together(name: str) -> None:
    Loud.formatted = 0
    tell(name, {field: Loud("x") for field in EVENTS[name].fields})
    assert Loud.formatted == 0


def test_the_spy_on_sentences_sees_one(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    Loud.formatted = 0
    tell("session.anonymous", {"error": Loud("x")})
    assert Loud.formatted == 1


@pytest.mark.parametrize("fields", [{}, {"error": "x", "more": 1}, {"other": "x"}])
def test_fields_that_are_not_those_of_the_event_are_an_error(
    fields: dict[str, int | str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(AssertionError):
        tell("session.anonymous", fields)


def test_a_field_with_braces_in_it_is_shown_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    tell("session.anonymous", {"error": "{error.__class__} %s"})
    assert "{error.__class__} %s" in caplog.text


# --- the sources ------------------------------------------------------------------------------------------------------


def sources() -> Iterator[ast.AST]:
    for path in sorted(PACKAGE.rglob("*.py")):
        if path != PACKAGE / "events.py":
            yield from ast.walk(ast.parse(path.read_text()))


def test_the_events_that_the_package_tells_are_exactly_those_that_are_described() -> None:
    told = {
        node.value
        for node in sources()
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and NAME.fullmatch(node.value)
    }
    assert told == set(EVENTS)


def with_fields(node: ast.AST) -> tuple[str, ast.expr | None] | None:
    """The event and its fields, of `tell(name, fields)` or of a pair `(name, fields)` whose name is a constant."""
    match node:
        case ast.Call(func=ast.Name(id="tell"), args=[ast.Constant(value=str(name)), *fields]):
            return name, fields[0] if fields else None
        case ast.Tuple(elts=[ast.Constant(value=str(name)), ast.Dict() as fields]) if NAME.fullmatch(name):
            return name, fields
    return None


def test_what_the_package_tells_of_an_event_are_exactly_its_fields() -> None:
    found = [pair for node in sources() if (pair := with_fields(node)) is not None]
    assert len(found) > 10
    for name, fields in found:
        given = fields.keys if isinstance(fields, ast.Dict) else []
        assert fields is None or isinstance(fields, ast.Dict), name
        assert [key.value for key in given if isinstance(key, ast.Constant)] == list(EVENTS[name].fields), name
