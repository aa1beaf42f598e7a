"""Strict configuration: one pydantic model, shared by the function, the file and the command line."""

from __future__ import annotations

import reprlib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hemalens.errors import MAX_SEED, ConfigError, near_matches, one_line
from hemalens.files import open_regular

MAX_BYTES = 1_000_000
"""Size of the largest file of settings."""
MAX_VALUES, MAX_DEPTH = 100_000, 32
"""Values in a file of settings, aliases counted each time, and groups within groups."""
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
"""The type of a seed in a configuration."""


class StrictConfig(BaseModel):
    """Base of every configuration: frozen, without unknown keys, without coercion of values, every number finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

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
    found: dict[str, Any] = read_settings(file, "TOML", tomllib.loads)
    return found


def read_settings(file: Path, language: str, parse: Callable[[str], Any]) -> Any:
    """What `parse` makes of a file of settings; raises `ConfigError`.

    The file has at most `MAX_BYTES`, and its values are bounded in number and depth. `parse` raises `ValueError`.
    """
    try:
        with open_regular(file) as handle:
            content = handle.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot read {one_line(file)}", got=error.strerror or str(error), remedy="Check the path and its permissions."
        ) from error
    except ValueError as error:
        raise ConfigError(f"{one_line(file)} is no path", got=str(error)) from error
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{one_line(file)} is too large for settings", expected=f"at most {MAX_BYTES:,} bytes")
    try:
        values = parse(content.decode("utf-8-sig"))
        _check_bounds(values)
    except RecursionError as error:
        raise ConfigError(f"{one_line(file)} is nested too deeply", expected=f"at most {MAX_DEPTH} levels") from error
    except ValueError as error:
        raise ConfigError(f"{one_line(file)} is not valid {language}", got=str(error)) from error
    return values


def _check_bounds(values: Any) -> None:
    """Raise `RecursionError` or `ValueError` for values too deep or too many, as of aliases to aliases in YAML."""
    waiting, n = [(values, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        n += 1
        if depth > MAX_DEPTH:
            raise RecursionError
        if n > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES:,} values")
        if isinstance(value, dict):
            waiting += [(each, depth + 1) for each in value.values()]
        elif isinstance(value, list):
            waiting += [(each, depth + 1) for each in value]


def _parse_override(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"cannot read the setting {text!r}", expected="key=value, as in --set epochs=10")
    try:
        found = tomllib.loads(f"value = {value}")["value"]
        _check_bounds(found)
    except RecursionError as error:
        raise ConfigError(f"the setting {key.strip()!r} is nested too deeply") from error
    except ValueError:
        # a bare word is a string: --set head=rf
        found = value.strip()
    return key.strip(), found


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 120


def _readable(model: type[BaseModel], error: ValidationError, source: str) -> ConfigError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return ConfigError(f"{source}: unknown key {key!r}", remedy=near_matches(key, _keys(model)))
    if first["type"] == "value_error":
        return ConfigError(f"{source}: {first['msg'].removeprefix('Value error, ')}")
    return ConfigError(
        f"{source}: key {key!r}", expected=first["msg"].removeprefix("Input should be "), got=_SHORT.repr(first["input"])
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
