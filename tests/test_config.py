"""Strict configuration: the same from a mapping, a file and the command line; nothing unknown, nothing coerced."""

from __future__ import annotations

import importlib
import math
import pkgutil
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

import hemalens
from hemalens.config import MAX_BYTES, MAX_DEPTH, Seed, StrictConfig, read_toml
from hemalens.errors import MAX_SEED, ConfigError, InputError


class _Config(StrictConfig):
    epochs: int = Field(default=10, ge=1)
    learning_rate: float = 1e-3
    head: Literal["lr", "rf"] = "lr"
    augment: bool = True
    name: str = "x"


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


def test_defaults_then_file_then_overrides(tmp_path: Path) -> None:
    file = _file(tmp_path, 'epochs = 5\nlearning_rate = 0.1\nhead = "rf"\n')
    assert _Config.load() == _Config()
    assert _Config.load(file) == _Config(epochs=5, learning_rate=0.1, head="rf")
    assert _Config.load(file, ["epochs=7", "augment=false"]) == _Config(
        epochs=7, learning_rate=0.1, head="rf", augment=False
    )


def test_the_last_of_two_overrides_counts() -> None:
    assert _Config.load(overrides=["epochs=7", "epochs=8"]).epochs == 8


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("epochs=7", "epochs", 7),
        ("epochs = 7", "epochs", 7),
        ("learning_rate=1e-4", "learning_rate", 1e-4),
        ("learning_rate=1", "learning_rate", 1.0),
        ("head=rf", "head", "rf"),
        ('head="rf"', "head", "rf"),
        ("augment=false", "augment", False),
        ("name=two words", "name", "two words"),
        ("name=a=b", "name", "a=b"),
        ("name=", "name", ""),
    ],
)
def test_overrides_are_read_as_toml_and_bare_words_as_text(override: str, key: str, value: object) -> None:
    found = getattr(_Config.load(overrides=[override]), key)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("override", ["epochs", "=7", " =7", ""])
def test_override_without_a_key_or_value_says_how_to_write_it(override: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the setting .*; expected key=value, as in --set epochs=10"):
        _Config.load(overrides=[override])


def test_unknown_key_names_the_near_one_and_the_source(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"configuration: unknown key 'epoch'. did you mean 'epochs'\?"):
        _Config.from_mapping({"epoch": 3})
    file = _file(tmp_path, "leaning_rate = 0.1")
    with pytest.raises(ConfigError, match=r"unknown key 'leaning_rate'. did you mean 'learning_rate'\?") as error:
        _Config.load(file)
    assert str(error.value).startswith(repr(str(file)))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("epochs", "7", "a valid integer"),
        ("epochs", 7.0, "a valid integer"),
        ("epochs", True, "a valid integer"),
        ("epochs", 0, "greater than or equal to 1"),
        ("learning_rate", "0.1", "a valid number"),
        ("augment", 1, "a valid boolean"),
        ("augment", "false", "a valid boolean"),
        ("head", "svm", "'lr' or 'rf'"),
        ("name", 3, "a valid string"),
        ("name", None, "a valid string"),
    ],
)
def test_values_of_another_kind_are_refused_with_key_expected_and_got(key: str, value: Any, expected: str) -> None:
    with pytest.raises(InputError) as error:
        _Config.from_mapping({key: value})
    assert isinstance(error.value, ConfigError)
    assert str(error.value) == f"configuration: key {key!r}; expected {expected}; got {value!r}"


def test_wrong_override_is_refused_like_a_wrong_value() -> None:
    with pytest.raises(ConfigError, match=r"key 'augment'; expected a valid boolean; got 'no'"):
        _Config.load(overrides=["augment=no"])
    with pytest.raises(ConfigError, match=r"key 'epochs'; .*; got '\[1, 2'"):
        _Config.load(overrides=["epochs=[1, 2"])


class _Part(StrictConfig):
    file: str = ""

    def file_digests(self) -> dict[str, str]:
        return super().file_digests() | ({"file": f"digest of {self.file}"} if self.file else {})


class _Whole(_Part):
    name: str = "x"
    first: _Part = _Part()
    second: _Part | None = None


def test_files_are_named_with_their_digests_down_to_the_parts() -> None:
    assert _Config().file_digests() == _Whole().file_digests() == {}
    whole = _Whole(file="a", first=_Part(file="b"), second=_Part(file="c"))
    expected = {"file": "digest of a", "first.file": "digest of b", "second.file": "digest of c"}
    assert whole.file_digests() == expected
    assert _Whole(first=_Part(file="b")).file_digests() == {"first.file": "digest of b"}


def test_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        _Config().epochs = 3  # type: ignore[misc]


def test_missing_broken_and_wrongly_encoded_files_are_one_line_errors_that_name_the_file(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    broken = _file(tmp_path, "epochs = = 3\n\n")
    encoded = tmp_path / "latin.toml"
    encoded.write_bytes('name = "ä"'.encode("latin-1"))
    for path, match in (
        (missing, "cannot read .*; got No such file or directory"),
        (tmp_path, "cannot read .*; got Is a directory"),
        (broken, "is not valid TOML; got .*line 1"),
        (encoded, "is not valid TOML; got .*utf-8"),
    ):
        with pytest.raises(ConfigError, match=match) as error:
            read_toml(path)
        assert repr(str(path)) in str(error.value)
        assert "\n" not in str(error.value)


@given(
    epochs=st.integers(1, 10**6),
    rate=st.floats(allow_nan=False, allow_infinity=False),
    name=st.from_regex(r"[a-z ]{0,9}", fullmatch=True),
)
def test_function_file_and_command_line_give_the_same(
    tmp_path_factory: pytest.TempPathFactory, epochs: int, rate: float, name: str
) -> None:
    lines = [f"epochs = {epochs}", f"learning_rate = {rate!r}", f'name = "{name}"']
    file = tmp_path_factory.getbasetemp() / "same.toml"
    file.write_text("\n".join(lines))
    expected = _Config(epochs=epochs, learning_rate=rate, name=name)
    assert _Config.load(file) == expected
    assert _Config.load(overrides=lines) == expected


@given(text=st.text(max_size=30))
def test_any_override_gives_a_configuration_or_a_one_line_config_error(text: str) -> None:
    try:
        outcome: object = _Config.load(overrides=[text])
    except ConfigError as error:
        outcome = str(error)
    assert isinstance(outcome, _Config) or not re.search(r"[\n\r]", str(outcome))


# ---------------------------------------------------------------------------------- every configuration of the package


def _every_config() -> list[type[StrictConfig]]:
    for module in pkgutil.walk_packages(hemalens.__path__, "hemalens."):
        importlib.import_module(module.name)
    waiting, found = [StrictConfig], set()
    while waiting:
        for each in waiting.pop().__subclasses__():
            waiting.append(each)
            if each.__module__.startswith("hemalens."):
                found.add(each)
    return sorted(found, key=lambda each: (each.__module__, each.__name__))


def _holding(kind: Any, number: float) -> Iterator[object]:
    """Values of a type with the number in each of its places for a float, down to the parts of tuples and mappings."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is float:
        yield number
    elif origin is Annotated:
        yield from _holding(inner[0], number)
    elif origin is tuple:
        kinds = inner[:1] if inner[-1] is Ellipsis else inner
        for i, each in enumerate(kinds):
            for value in _holding(each, number):
                yield tuple(value if j == i else 1.0 for j in range(len(kinds)))
    elif origin in (dict, Mapping):
        for value in _holding(inner[1], number):
            yield {"a": value}
    else:
        for each in inner:
            yield from _holding(each, number)


def _error_types(config: type[StrictConfig], key: str, value: object) -> set[str]:
    try:
        config.model_validate({key: value})
    except ValidationError as error:
        return {each["type"] for each in error.errors() if each["loc"][:1] == (key,)}
    return set()


def test_no_number_of_any_configuration_is_infinite_or_none() -> None:
    configs, n_fields = _every_config(), 0
    for config in configs:
        for key, info in config.model_fields.items():
            values = [v for number in (math.inf, -math.inf, math.nan) for v in _holding(info.annotation, number)]
            n_fields += bool(values)
            for value in values:
                assert "finite_number" in _error_types(config, key, value), f"{config.__name__}.{key} takes {value}"
    assert len(configs) > 30
    assert n_fields > 60, "the walk must find the numbers"


def test_every_seed_of_a_configuration_has_the_bounds_of_the_generators() -> None:
    n_seeds = 0
    for config in _every_config():
        for key in config.model_fields:
            if key == "seed" or key.endswith("_seed"):
                n_seeds += 1
                assert _error_types(config, key, MAX_SEED + 1) == {"less_than_equal"}, f"{config.__name__}.{key}"
                assert _error_types(config, key, -1) == {"greater_than_equal"}, f"{config.__name__}.{key}"
                assert not _error_types(config, key, MAX_SEED), f"{config.__name__}.{key}"
    assert n_seeds > 8
    import numpy as np
    from sklearn.utils import check_random_state

    np.random.default_rng(MAX_SEED)
    check_random_state(MAX_SEED)
    with pytest.raises(ValueError, match="Seed must be between 0 and"):
        check_random_state(MAX_SEED + 1)


class _Seeded(StrictConfig):
    seed: Seed = 0
    name: object = None


@given(depth=st.integers(1, 3 * MAX_DEPTH), table=st.booleans())
def test_files_are_as_deep_as_the_bound_and_no_deeper(
    tmp_path_factory: pytest.TempPathFactory, depth: int, table: bool
) -> None:
    file = tmp_path_factory.getbasetemp() / "deep.toml"
    inner = "{a=" * depth + "1" + "}" * depth if table else "[" * depth + "]" * depth
    file.write_text(f"name = {inner}")
    # the file itself is the outermost group
    allowed = depth <= MAX_DEPTH - 1 + (not table)
    try:
        outcome: object = read_toml(file)
    except ConfigError as error:
        outcome = str(error)
        assert "is nested too deeply; expected at most 32 levels" in outcome
    assert isinstance(outcome, dict) is allowed


def test_the_largest_file_is_read_and_no_larger_one(tmp_path: Path) -> None:
    head = "epochs = 3\n"
    assert read_toml(_file(tmp_path, head + "#" * (MAX_BYTES - len(head)))) == {"epochs": 3}
    with pytest.raises(ConfigError, match="is too large for settings; expected at most 1,000,000 bytes"):
        read_toml(_file(tmp_path, head + "#" * (MAX_BYTES - len(head) + 1)))


def test_a_byte_order_mark_is_no_key(tmp_path: Path) -> None:
    file = tmp_path / "mark.toml"
    file.write_bytes("epochs = 3\n".encode("utf-8-sig"))
    assert _Config.load(file).epochs == 3


def test_a_named_pipe_of_settings_is_refused_at_once(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(ConfigError, match="a named pipe, socket or device"):
        read_toml(tmp_path / "pipe.toml")


@given(content=st.binary(max_size=200))
def test_any_file_gives_settings_or_a_one_line_config_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    from hemalens.benchmark.config import read_yaml

    file = tmp_path_factory.getbasetemp() / "any settings"
    file.write_bytes(content)
    for read in (read_toml, read_yaml):
        try:
            outcome: object = read(file)
        except ConfigError as error:
            outcome = str(error)
        assert isinstance(outcome, dict) or re.fullmatch(r"'[^\n\r]*any settings' [^\n\r]+", str(outcome))
