"""Errors: one line each, and hints with the nearest names."""

from __future__ import annotations

import inspect
import os
import re
import shlex

import numpy as np
import pytest

import hemalens
from hemalens import errors
from hemalens.benchmark.run import benchmark
from hemalens.errors import (
    HemalensError,
    InputError,
    MissingExtraError,
    ParityError,
    check_seed,
    near_matches,
    one_line,
    public,
    require_extra,
    shell_words,
)

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


# ----------------------------------------------------------------------------------------------- what the system refuses


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FileNotFoundError(2, "No such file", "gone.png"), r"cannot use 'gone.png'; got No such file. Check the path."),
        (PermissionError(13, "Permission denied", "a.png"), r"no permission for 'a.png'; expected the right to read it.*"),
        (OSError(28, "No space left on device"), r"the disk is full while using a file. Free space.*"),
        (OSError("an image of no kind"), r"cannot use a file; got an image of no kind. Check the path."),
        (OSError(36, "File name too long", "x" * 5000), r"cannot use 'x+ \.\.\. x+'; got File name too long.*"),
        (MemoryError(), r"not enough memory. Close other programs.*"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), r"not enough memory.*"),
        (RecursionError(), r"an input is nested too deeply, or refers to itself"),
        (OverflowError("int too large"), r"a number is too large to compute with; got int too large"),
        (
            UnicodeEncodeError("utf-8", "a\udcff.png", 1, 2, "surrogates"),
            r"the name 'a\\udcff.png' cannot be written; .*Rename.*",
        ),
    ],
)
def test_a_public_function_turns_what_the_system_refuses_into_one_line(error: Exception, message: str) -> None:
    @public
    def work() -> None:
        raise error

    with pytest.raises(InputError) as caught:
        work()
    assert re.fullmatch(message, str(caught.value))
    assert len(str(caught.value)) < 500
    assert caught.value.__cause__ is error


def test_a_public_function_keeps_its_face_its_answer_and_all_other_errors() -> None:
    def add(a: int, *, seed: int = 0) -> int:
        """Add."""
        return 1 // a + seed

    decorated = public(add)
    assert inspect.signature(decorated) == inspect.signature(add)
    assert (decorated.__name__, decorated.__doc__, decorated(1, seed=4)) == ("add", "Add.", 5)
    with pytest.raises(ZeroDivisionError):
        decorated(0)


@pytest.mark.parametrize("seed", [-1, 2**32, 10**30, 1.0, "1", None, True, float("nan")])
def test_seeds_are_whole_numbers_in_the_bounds_of_the_generators(seed: object) -> None:
    with pytest.raises(InputError, match=r"the seed cannot be used; expected a whole number from 0 to 4294967295; got"):
        check_seed(seed)


@pytest.mark.parametrize("seed", [0, 2**32 - 1, np.int64(3), np.uint32(7)])
def test_numpy_s_whole_numbers_are_seeds(seed: object) -> None:
    check_seed(seed)


def test_the_public_functions_are_decorated() -> None:
    """Each has the function beneath it, as `functools.wraps` leaves it."""
    verbs = ("adapt", "benchmark", "evaluate", "open_bundle", "open_dataset", "predict", "quantize", "run_study", "segment")
    for name in (*verbs, "suggest", "train"):
        assert hasattr(benchmark if name == "benchmark" else getattr(hemalens, name), "__wrapped__"), name
