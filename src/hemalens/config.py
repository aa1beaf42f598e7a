"""Strict configuration: one pydantic model, shared by the function, the file and the command line."""

from __future__ import annotations

import dataclasses
import os
import reprlib
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, cast, get_type_hints

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from hemalens.errors import MAX_SEED, ConfigError, InputError, near_matches, one_line, visible
from hemalens.files import open_regular

MAX_BYTES = 1_000_000
"""Size of the largest file of settings."""
MAX_VALUES, MAX_DEPTH = 100_000, 32
"""Values in a file of settings, aliases counted each time, and groups within groups."""
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
"""The type of a seed in a configuration."""


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
    """Base of every configuration: frozen, without unknown keys, without coercion of values, every number finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

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


def parse_yaml(text: str) -> Any:
    """What a YAML text holds, for `read_settings`; `ValueError` where it is no YAML."""
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(one_line(str(error))) from error


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
        return ConfigError(
            f"{source}: unknown key {key!r}", remedy=near_matches(key, _keys(model), listed="docs/reference/settings.md")
        )
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


def check_whole(value: object, what: str, *, least: int) -> None:
    """Raise `InputError`, naming `what`, unless `value` is a whole number of at least `least`."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or int(value) < least:  # type: ignore[call-overload]
        problem = f"{what} is out of range" if whole else f"{what} is no number"
        raise InputError(problem, expected=f"a whole number from {least} on", got=_brief(value))


def check_share(value: object, what: str, *, ends: bool = True) -> None:
    """Raise `InputError`, naming `what`, unless `value` is a number from 0 to 1, without 0 and 1 if not `ends`."""
    number = isinstance(value, Real) and not isinstance(value, bool | np.bool_)
    within = number and (0 <= float(value) <= 1 if ends else 0 < float(value) < 1)  # type: ignore[arg-type]
    if not within:
        problem = f"{what} is out of range" if number else f"{what} is no number"
        raise InputError(problem, expected="0 to 1" if ends else "above 0, below 1", got=_brief(value))


def check_flag(value: object, what: str) -> None:
    """Raise `InputError`, naming `what`, unless `value` is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{what} is neither True nor False", got=_brief(value))


def check_text(value: object, what: str) -> None:
    """Raise `InputError`, naming `what`, unless `value` is a text."""
    if not isinstance(value, str) or not value:
        raise InputError(f"{what} is no name", expected="a text", got=_brief(value))


def check_texts(values: object, what: str) -> None:
    """Raise `InputError`, naming `what`, unless `values` are several texts: a list of them, and not one."""
    if not isinstance(values, Sequence) or isinstance(values, str) or not all(isinstance(v, str) for v in values):
        raise InputError(f"{what} are no list of texts", expected='a list, as in ["epochs=10"]', got=_brief(values))


Options = TypeVar("Options")


def checked(given: Options, kind: type[Options]) -> Options:
    """The options `kind`, a dataclass, with paths as texts; raises `InputError` for a value that one cannot have."""
    if not isinstance(given, kind):
        raise InputError("these are no options of this function", expected=kind.__name__, got=_brief(given))
    values = {}
    for name, adapter in _adapters(cast(type, kind)).items():
        value = getattr(given, name)
        try:
            adapter.validate_python(value.item() if isinstance(value, np.generic) else value)
        except ValidationError as error:
            problem = f"the option {name} of {kind.__name__} is not valid"
            expected = error.errors()[0]["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
            raise InputError(problem, expected=expected, got=_brief(value)) from error
        values[name] = _as_text(value)
    return kind(**values)


def _as_text(value: Any) -> Any:
    """A value with its paths as texts."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return tuple(map(_as_text, value)) if isinstance(value, list | tuple) else value


@cache
def _adapters(kind: type) -> dict[str, TypeAdapter[Any]]:
    """A check of each field of a dataclass, by its annotation."""
    hints = get_type_hints(kind, include_extras=True)
    how = ConfigDict(strict=True, allow_inf_nan=False)
    return {field.name: TypeAdapter(hints[field.name], config=how) for field in dataclasses.fields(kind)}  # type: ignore[arg-type]


def _brief(value: object) -> str:
    """A value in a few characters, on one line."""
    return visible(_SHORT.repr(value))
