"""The one error of llmcore: a line, its parts, and Python's own kinds."""

import pickle

import pytest

import llmcore
from llmcore import errors
from llmcore.errors import Error

KINDS = {
    "ArgumentTypeError": (TypeError, 2),
    "FileError": (OSError, 2),
    "MissingFileError": (FileNotFoundError, 2),
    "ExistingFileError": (FileExistsError, 2),
    "StateError": (RuntimeError, 1),
    "DeviceError": (RuntimeError, 1),
    "CorpusError": (ValueError, 2),
}


def test_the_line_is_made_of_its_parts():
    error = Error("load", "a.gguf: version", expected="2 or 3", got=9)
    assert str(error) == "[load] a.gguf: version: expected 2 or 3, got 9"
    assert (error.where, error.expected, error.got, error.exit_code) == ("load", "2 or 3", "9", 2)
    assert str(Error("load", expected="a file")) == "[load] expected a file"
    assert str(Error("load", expected="a name", got=None)) == "[load] expected a name, got None"
    assert str(Error("load", "the disk is full")) == "[load] the disk is full"
    assert str(Error("", "the disk is full")) == "the disk is full"
    assert Error("load", "the disk is full").got is None


@pytest.mark.parametrize("name", KINDS)
def test_kinds_can_be_caught_as_pythons_own_and_pickled(name):
    kind, (python, code) = getattr(errors, name), KINDS[name]
    error = kind("op", "x", expected="y", got="z")
    assert isinstance(error, python)
    assert isinstance(error, Error)
    again = pickle.loads(pickle.dumps(error))
    for one in (error, again):
        assert (type(one), str(one), one.message) == (kind, "[op] x: expected y, got z", "x: expected y, got z")
        assert (one.exit_code, one.got, getattr(one, "errno", None)) == (code, "z", None)


def test_lines_of_the_compiled_core_are_read():
    with pytest.raises(ValueError, match="matmul") as caught:
        llmcore.ops.matmul([[1.0]], [[1.0], [2.0]])
    error = Error.of(caught.value)
    assert (error.where, str(error), error.exit_code) == ("matmul", str(caught.value), 2)
    assert Error.of(RuntimeError("[cuda] out of memory")).exit_code == 1
    assert Error.of(ValueError("no such thing")).where == ""
    assert Error.of(error) is error
