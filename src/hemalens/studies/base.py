"""The contract of a study: its roles of data, and a run that gives a report with the published numbers.

The description of a study is in its TOML file, so that listing studies loads no training library.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hemalens.errors import InputError, near_matches
from hemalens.progress import Say

if TYPE_CHECKING:
    from hemalens.config import StrictConfig
    from hemalens.evaluation.results import Report


@dataclass(frozen=True, slots=True)
class PublishedData:
    """The data of a role in the paper: title, size, reader, and globs of its folder's name."""

    title: str
    n_images: int
    reader: str
    paths: tuple[str, ...]

    def is_given(self, spec: str, n_found: int) -> bool:
        """Whether `spec`, whose folder has `n_found` images before any are left out, names these data."""
        return spec.startswith(f"{self.reader}:") and n_found == self.n_images


@dataclass(frozen=True, slots=True)
class Role:
    """A role of data in a study: what it is, whether it is required, and whether several datasets may have it."""

    name: str
    what: str
    published: PublishedData
    required: bool = True
    repeatable: bool = False

    @classmethod
    def of(cls, name: str, entry: Mapping[str, Any]) -> Role:
        """A role from its entry in a study's file."""
        data = {**entry["published"], "paths": tuple(entry["published"]["paths"])}
        return cls(name, **{**entry, "published": PublishedData(**data)})

    def allows(self, n: int) -> bool:
        """Whether `n` datasets may have it."""
        return (n > 0 or not self.required) and (n < 2 or self.repeatable)

    @property
    def allowed(self) -> str:
        """The allowed number of datasets, in words."""
        if self.repeatable:
            return "1 or more" if self.required else "any number"
        return "1" if self.required else "at most 1"


@dataclass(frozen=True, slots=True)
class StudyOptions:
    """The options of a run: output folder, settings key=value, seed, whether to overwrite, and progress messages.

    `published_only` leaves out the study's own rows and shows what the paper has.
    """

    out: Path
    settings: Sequence[str] = ()
    published_only: bool = False
    seed: int = 0
    overwrite: bool = False
    say: Say = lambda text: None


@dataclass(frozen=True, slots=True)
class Description:
    """The description of a study: name, summary, citation, main published result and roles of data.

    `needs` are settings that a run requires, each with its meaning. `differences` are sentences on what every run does
    otherwise than the paper, and why; the report shows them with those of the run.
    """

    name: str
    summary: str
    citation: str
    main_result: str
    roles: tuple[Role, ...]
    needs: Mapping[str, str]
    differences: tuple[str, ...]

    def check_roles(self, data: Mapping[str, Sequence[str]]) -> None:
        """Raise `InputError` for an unknown role, or for too few or too many datasets in one."""
        known = {role.name: role for role in self.roles}
        for name in data:
            if name not in known:
                raise InputError(f"the study {self.name} has no role {name!r}", remedy=near_matches(name, known))
        for role in self.roles:
            n = len(data.get(role.name, ()))
            if not role.allows(n):
                what = f"{role.what} (published: {role.published.title})"
                raise InputError(
                    f"the study {self.name} needs another number of datasets in the role {role.name}, {what}",
                    expected=role.allowed,
                    got=str(n),
                    remedy=f"Use --data {role.name}=SPEC.",
                )


@dataclass(frozen=True, slots=True)
class Study(Description):
    """A study that can be run."""

    function: Callable[[Mapping[str, Sequence[str]], StudyOptions], Report]

    @classmethod
    def of(cls, name: str, function: Callable[[Mapping[str, Sequence[str]], StudyOptions], Report]) -> Study:
        """The study that the file `name`.toml describes, run by `function`."""
        description = describe(name)
        values = {field.name: getattr(description, field.name) for field in fields(description)}
        return cls(**values, function=function)

    def run(self, data: Mapping[str, Sequence[str]], options: StudyOptions) -> Report:
        """Run the study in the folder `options.out`, or resume it; `data` are the specs of datasets by role.

        Raises `InputError` as `check_roles` does.
        """
        self.check_roles(data)
        return self.function(data, options)


def input_paths(data: Mapping[str, Sequence[str]], settings: Sequence[str]) -> list[Path]:
    """The paths of all data of a study, and of the files that its settings name."""
    # the help lists the studies, and needs no dataset
    from hemalens.config import setting_paths
    from hemalens.datasets.open import spec_path

    return [*(spec_path(spec) for specs in data.values() for spec in specs), *setting_paths(settings)]


def published(name: str) -> dict[str, Any]:
    """The TOML file of a study: its description and its published numbers."""
    return tomllib.loads(resources.files(__package__).joinpath("published", f"{name}.toml").read_text(encoding="utf-8"))


def describe(name: str) -> Description:
    """The description of a study from its TOML file; its name has hyphens where the file's name has underscores."""
    entry = published(name)
    roles = tuple(Role.of(role, each) for role, each in entry["roles"].items())
    return Description(
        name.replace("_", "-"),
        entry["summary"],
        entry["citation"],
        entry["main_result"],
        roles,
        needs=entry.get("needs", {}),
        differences=tuple(entry["differences"]),
    )


def changed_settings(given: StrictConfig, as_published: StrictConfig) -> dict[str, tuple[Any, Any]]:
    """Settings of another value than `as_published`, which has the same fields, as group.key: (given, published)."""
    theirs = dict(_flattened(as_published.model_dump()))
    ours = _flattened(given.model_dump())
    return {key: (value, theirs.get(key)) for key, value in ours if key not in theirs or value != theirs[key]}


def _flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values by name; those of nested mappings by dotted names."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
