"""Settings, options and files of settings that cannot be meant."""

from __future__ import annotations

from collections.abc import Sequence

from bad_input_cases import Case, Place


def _train(place: Place, *more: object) -> tuple[object, ...]:
    return ("train", "stub", "--train", f"folder:{place.cells()}", "--out", place.out, *more)


def _predict(place: Place, *more: object) -> tuple[object, ...]:
    return ("predict", place.bundle(), place.cells(), "--out", "out.csv", *more)


def _set(name: str, setting: str, *says: str) -> Case:
    return Case(f"--set {name}", lambda place: _train(place, "--set", setting), says, stub=True)


def _config(name: str, content: bytes | str, *says: str) -> Case:
    """A training with this file of settings."""

    def make(place: Place) -> Sequence[object]:
        return _train(place, "--config", place.file("settings.toml", content))

    return Case(f"--config {name}", make, ("settings.toml", *says), stub=True)


def _benchmark(name: str, content: bytes | str, *says: str) -> Case:
    """A benchmark of this file."""

    def make(place: Place) -> Sequence[object]:
        return ("benchmark", "--config", place.file("plan.yaml", content), "--out", place.out)

    return Case(f"benchmark --config {name}", make, ("plan.yaml", *says))


def _usage(name: str, arguments: Sequence[object], *says: str) -> Case:
    return Case(name, lambda place: arguments, says)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 10)}]\n" for i in range(8)
)
"""Lists of aliases of lists: 10^9 values in 500 bytes."""

PLAN = "methods: [linear_probe]\nsources: ['folder:cells']\ntargets: ['folder:cells']\n"
HUGE = "9" * 30

CASES = (
    _set("infinity", "scale=inf", "key 'scale'", "expected a finite number", "got inf"),
    _set("minus infinity", "scale=-inf", "expected a finite number", "got -inf"),
    _set("no number", "scale=nan", "expected a finite number", "got nan"),
    _set("a number beyond all floats", "scale=1e999", "expected a finite number", "got inf"),
    _set("a text for a number", "scale=wide", "expected a valid number", "got 'wide'"),
    _set("a list nested a thousand times", f"scale={'[' * 1000}{']' * 1000}", "'scale' is nested too deeply"),
    _set("a list nested forty times", f"scale={'[' * 40}{']' * 40}", "'scale' is nested too deeply"),
    _set("a very long value", f"scale={'x' * 100_000}", "expected a valid number", "..."),
    _set("an unknown key", "scall=3", "unknown key 'scall'", "did you mean 'scale'?"),
    _set("a group that is none", "scale.width=3", "key 'scale'", "expected a valid number", "got {'width': 3}"),
    _set("a key of nothing", "=3", "expected key=value"),
    _config("of infinity", "scale = inf\n", "expected a finite number"),
    _config("of no number", "scale = nan\n", "expected a finite number"),
    _config("nested a hundred thousand times", "scale = " + "[" * 100_000, "is nested too deeply", "at most 32 levels"),
    _config("nested forty times", "scale = " + "[" * 40 + "]" * 40, "is nested too deeply"),
    _config("of a million bytes and one", "#" * 1_000_001, "is too large for settings", "at most 1,000,000 bytes"),
    _config("of null bytes", b"\x00" * 100, "is not valid TOML"),
    _config("in UTF-16", "scale = 3\n".encode("utf-16"), "is not valid TOML"),
    _config("that is an image", bytes(range(256)), "is not valid TOML"),
    _benchmark("nested ten thousand times", "methods: " + "[" * 10_000, "is nested too deeply"),
    _benchmark("nested forty times", "methods: " + "[" * 40 + "]" * 40, "is nested too deeply"),
    _benchmark("of a billion aliases", BOMB, "is not valid YAML", "more than 100,000 values"),
    _benchmark("that refers to itself", "methods: &a [*a]\n", "is nested too deeply"),
    _benchmark("that runs code", "methods: !!python/object/apply:os.getcwd []\n", "is not valid YAML"),
    _benchmark("of infinity", f"{PLAN}seed: .inf\n", "key 'seed'", "got inf"),
    _benchmark("of a list", "- linear_probe\n", "is no benchmark", "got list"),
    _benchmark("of numbered keys", "1: linear_probe\n", "is no benchmark", "a key that is no text"),
    _benchmark("that is empty", "", "is no benchmark", "got NoneType"),
    _benchmark("of a huge seed", f"{PLAN}seed: {HUGE}\n", "key 'seed'", "less than or equal to 4294967295"),
    Case("--seed of twenty digits", lambda place: _train(place, "--seed", HUGE), ("--seed", "4294967295"), stub=True),
    Case("--seed below zero", lambda place: _train(place, "--seed", -1), ("--seed", "0"), stub=True),
    Case(
        "--test-fraction nan", lambda place: _train(place, "--test-fraction", "nan"), ("--test-fraction", "0.9"), stub=True
    ),
    Case("--abstain-below nan", lambda place: _predict(place, "--abstain-below", "nan"), ("--abstain-below", "1")),
    Case("--abstain-below 2", lambda place: _predict(place, "--abstain-below", 2), ("--abstain-below", "1")),
    Case("--coverage nan", lambda place: _predict(place, "--coverage", "nan"), ("cannot read --coverage", "got 'nan'")),
    Case("--coverage inf", lambda place: _predict(place, "--coverage", "inf"), ("cannot read --coverage", "got 'inf'")),
    Case("--coverage 1", lambda place: _predict(place, "--coverage", 1), ("coverage", "got 1")),
    _usage("an unknown command", ("predic",), "no such command 'predic'", "Did you mean 'predict'?", "`hemalens --help`"),
    _usage("an unknown option", ("predict", "--overwrit"), "no such option: --overwrit", "--overwrite", "predict --help`"),
    _usage("an option without its value", ("predict", "--out"), "'--out' requires an argument"),
    _usage("a missing option", ("predict", "cells"), "missing option '--out'", "`hemalens predict --help`"),
    _usage("a text for a count", ("data", "synthesize", "x", "--n-per-class", "ten"), "'--n-per-class'", "valid integer"),
    _usage("fractions of no number", ("benchmark", "--fractions", "1,nan", "--out", "x"), "cannot read --fractions"),
)
