"""Errors: one line each, and hints with the nearest names."""

from __future__ import annotations

import inspect

import pytest

from hemalens import errors
from hemalens.errors import HemalensError, InputError, MissingExtraError, ParityError, near_matches, one_line, require_extra

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, HemalensError)]


def test_the_message_has_its_parts_in_order_on_one_line() -> None:
    error = HemalensError("a file\nis bad", expected="an image", got="a text", remedy="Take it out.")
    assert str(error) == "a file is bad; expected an image; got a text. Take it out."
    assert (error.expected, error.got, error.remedy) == ("an image", "a text", "Take it out.")
    assert str(HemalensError("a file is bad")) == "a file is bad"


def test_what_a_file_holds_reaches_no_terminal_as_it_is() -> None:
    error = HemalensError("the header \x1b[31m", got="a\u202eb\x00", remedy="Use \x85 this.")
    assert str(error) == "the header \\x1b[31m; got a\\u202eb\\x00. Use   this."
    assert str(HemalensError("é 細胞 🔬")) == "é 細胞 🔬"


def test_a_long_value_loses_its_middle() -> None:
    error = str(HemalensError("x" * 5000, got="a" + "b" * 5000 + "c"))
    assert len(error) < 3 * errors.LONGEST_PART
    assert error.endswith("bc")
    assert "; got ab" in error
    assert " ... " in error


@pytest.mark.parametrize("kind", CLASSES)
def test_only_the_parity_of_a_graph_is_a_bug(kind: type[HemalensError]) -> None:
    assert issubclass(kind, InputError) is (kind not in (HemalensError, ParityError))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("linear", "did you mean 'linear_probe'?"),
        ("FINETUNE", "did you mean 'finetune'?"),
        ("finetun", "did you mean 'finetune'?"),
        ("zzz", "known: finetune, linear_probe"),
        ("", "known: finetune, linear_probe"),
    ],
)
def test_near_matches_are_the_close_names_or_all(name: str, hint: str) -> None:
    assert near_matches(name, ["linear_probe", "finetune"]) == hint


def test_a_name_is_printed_on_one_line() -> None:
    assert one_line("two\nlines\x1b") == "'two\\nlines\\x1b'"


def test_a_missing_package_names_its_extra() -> None:
    require_extra("json", "train", "this")
    with pytest.raises(MissingExtraError, match=r"drawing needs .*'no_such_package'.*hemalens\[figures\]"):
        require_extra("no_such_package", "figures", "drawing")
