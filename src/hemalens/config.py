"""Strict configuration: one pydantic model, shared by the function, the file and the command line."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from hemalens.errors import ConfigError, near_matches, one_line
from hemalens.files import open_regular


def setting_paths(settings: Sequence[str]) -> list[Path]:
    """The files and folders that exist under the value of a setting key=value."""
    values = (setting.partition("=")[2].strip("'\"") for setting in settings)
    return [Path(value) for value in values if os.path.exists(value)]


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


class StrictConfig(BaseModel):
    """Base of every configuration: frozen, without unknown keys, without coercion of values."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def named_paths(self) -> list[Path]:
        """The files and folders that exist under a text value."""
        return [Path(text) for text in _texts(self.model_dump(mode="json")) if os.path.exists(text)]

    def file_digests(self) -> dict[str, str]:
        """Digests, by key, of the files that the configuration names; a changed file makes another configuration."""
        found: dict[str, str] = {}
        for key in type(self).model_fields:
            part = getattr(self, key)
            if isinstance(part, StrictConfig):
                found |= {f"{key}.{name}": digest for name, digest in part.file_digests().items()}
        return found

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, source: str = "configuration") -> Self:
        """Validate a mapping; raises `ConfigError` naming the key, with the nearest known keys."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise _readable(cls, error, source) from error

    @classmethod
    def load(
        cls, file: Path | None = None, overrides: Sequence[str] = (), *, base: Mapping[str, Any] | None = None
    ) -> Self:
        """Merge the defaults, `base`, a TOML file and overrides (`key=value` or `part.key=value`), the last one winning.

        Raises `ConfigError`.
        """
        values = _over(_defaults_of_parts(cls), base or {})
        if file is not None:
            values = _over(values, read_toml(file))
        for override in overrides:
            key, value = _parse_override(override)
            *parts, last = key.split(".")
            place = values
            for part in parts:
                place = place.setdefault(part, {})
                if not isinstance(place, dict):
                    raise ConfigError(f"the setting {override!r} goes into {part!r}, which is not a group of settings")
            place[last] = value
        return cls.from_mapping(values, source=one_line(file) if file else "configuration")


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `above` into `below`, recursively."""
    merged = deepcopy(dict(below))
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _over(merged[key], value) if both else deepcopy(value)
    return merged


def _defaults_of_parts(model: type[BaseModel]) -> dict[str, Any]:
    """Defaults of the fields that are models, which may differ from the defaults of these models."""
    defaults = {name: info.get_default(call_default_factory=True) for name, info in model.model_fields.items()}  # type: ignore[call-overload]
    return {name: value.model_dump() for name, value in defaults.items() if isinstance(value, BaseModel)}


def read_toml(file: Path) -> dict[str, Any]:
    """A TOML file as a dict; raises `ConfigError` when it cannot be read or parsed."""
    try:
        with open_regular(file) as handle:
            return tomllib.load(handle)
    except OSError as error:
        raise ConfigError(
            f"cannot read {one_line(file)}", got=error.strerror or str(error), remedy="Check the path and its permissions."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{one_line(file)} is not valid TOML", got=str(error)) from error


def _parse_override(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"cannot read the setting {text!r}", expected="key=value, as in --set epochs=10")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        # a bare word is a string: --set head=rf
        return key.strip(), value.strip()


def _readable(model: type[BaseModel], error: ValidationError, source: str) -> ConfigError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return ConfigError(
            f"{source}: unknown key {key!r}", remedy=near_matches(key, _keys(model), listed="docs/reference/settings.md")
        )
    if first["type"] == "value_error":
        return ConfigError(f"{source}: {first['msg'].removeprefix('Value error, ')}")
    return ConfigError(
        f"{source}: key {key!r}", expected=first["msg"].removeprefix("Input should be "), got=repr(first["input"])
    )


def _keys(model: type[BaseModel]) -> list[str]:
    """All keys of a model, those of its parts as `part.key`."""
    keys = []
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += [f"{name}.{key}" for key in _keys(kind)]
        else:
            keys.append(name)
    return keys
