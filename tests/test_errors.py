"""What every error of the package has in common."""

import pickle

import pytest

from serverless_session import errors
from serverless_session.errors import (
    ComputationTimeout,
    ConfigurationError,
    DamagedValue,
    ServerlessSessionError,
    SessionConflict,
    SessionError,
    SessionNotLoaded,
    SessionTooLarge,
    StoreTimeout,
    StoreUnavailable,
    UnknownFormat,
    UnknownKey,
    ValueNotSerializable,
    ValueTooLarge,
    WriteUncertain,
)

EXAMPLES = [
    ConfigurationError("code", "what", looked_at="where", mend="this"),
    SessionError("code", "what", mend="this"),
    SessionNotLoaded("code", "what", mend="this"),
    SessionConflict(2),
    SessionTooLarge(2, 1),
    ComputationTimeout(1.0),
    StoreUnavailable("it is down"),
    StoreTimeout("it did not answer", seconds=1.0),
    WriteUncertain("it was sent"),
    ValueTooLarge(2, 1),
    ValueNotSerializable(("a", 0), "is odd", mend="this"),
    DamagedValue(),
    UnknownKey(),
    UnknownFormat("it is new"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_names_its_code_and_says_what_to_write(error: ServerlessSessionError) -> None:
    lines = str(error).splitlines()
    assert lines[0].startswith(f"[{error.code}] ")
    assert lines[-1] == f"  write:     {error.mend}"
    assert error.mend


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_goes_from_process_to_process(error: ServerlessSessionError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), again.__dict__) == (str(error), error.__dict__)


def test_there_is_an_example_of_every_error() -> None:
    kinds = {
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ServerlessSessionError)
    }
    roots = {ServerlessSessionError, errors.StoreError, errors.CodecError, errors.UnreadableValue}
    assert kinds - roots == {type(error) for error in EXAMPLES}
