"""Strict configuration: the same from a mapping, a file and the command line; nothing unknown, nothing coerced."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from hemalens.config import StrictConfig, read_toml
from hemalens.errors import ConfigError, InputError


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
