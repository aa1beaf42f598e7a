"""Errors: one line each, and hints with the nearest names."""

from __future__ import annotations

import inspect
import os
import shlex

import pytest

from hemalens import errors
from hemalens.errors import (
    HemalensError,
    InputError,
    MissingExtraError,
    ParityError,
    near_matches,
    one_line,
    require_extra,
    shell_words,
)

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, HemalensError)]


def test_the_message_has_its_parts_in_order_on_one_line() -> None:
    error = HemalensError("a file\nis bad", expected="an image", got="a text", remedy="Take it out.")
    assert str(error) == "a file is bad; expected an image; got a text. Take it out."
    assert (error.expected, error.got, error.remedy) == ("an image", "a text", "Take it out.")
    assert str(HemalensError("a file is bad")) == "a file is bad"


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


def test_of_many_names_three_near_ones_are_named_or_the_place_of_the_list() -> None:
    names = [f"setting_{i}" for i in range(30)]
    assert near_matches("settin_7", names, listed="the page").count("'") == 6
    assert near_matches("zzz", names, listed="the page") == "30 names are known; `the page` lists them."
    assert near_matches("zzz", names) == f"known: {', '.join(sorted(names)[:8])}, ... (30 in all)"


def test_a_short_name_is_not_found_within_others() -> None:
    assert near_matches("pl", ["sample_size", "backbone"]) == "known: backbone, sample_size"


@pytest.mark.skipif(os.name == "nt", reason="shells of POSIX")
def test_a_command_is_read_by_the_shell_as_it_was() -> None:
    words = ["hemalens", "adapt", "my runs/it's", "--out", "a&b;$c", ""]
    assert shlex.split(shell_words(words)) == words
    assert shell_words(["hemalens", "predict", "cells"]) == "hemalens predict cells"


def test_a_command_is_quoted_as_the_shell_of_windows_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("hemalens.errors.os.name", "nt")
        words = shell_words(["hemalens", "adapt", r"C:\my runs\net", "--out", "new"])
    assert words == r'hemalens adapt "C:\my runs\net" --out new'


def test_a_name_is_printed_on_one_line() -> None:
    assert one_line("two\nlines\x1b") == "'two\\nlines\\x1b'"


def test_a_missing_package_names_its_extra() -> None:
    require_extra("json", "train", "this")
    with pytest.raises(MissingExtraError, match=r"drawing needs .*'no_such_package'.*hemalens\[figures\]"):
        require_extra("no_such_package", "figures", "drawing")
