"""What every study is: which data it needs, its settings, and a run that gives a report with the published numbers.

What is told of a study without running it lies in its TOML file, so that telling loads no training library.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hemalens.errors import InputError, near_matches
from hemalens.progress import Say

if TYPE_CHECKING:
    from hemalens.evaluation.results import Report


@dataclass(frozen=True, slots=True)
class PublishedData:
    """The data that played a role in the paper: title, size, reader, and what its folder is called (globs)."""

    title: str
    n_images: int
    reader: str
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Role:
    """A part that data plays in a study: what it is, whether it must be there, whether several datasets may play it."""

    name: str
    what: str
    published: PublishedData
    required: bool = True
    repeatable: bool = False

    @classmethod
    def of(cls, name: str, told: Mapping[str, Any]) -> Role:
        """A role as a study's file tells it."""
        data = {**told["published"], "paths": tuple(told["published"]["paths"])}
        return cls(name, **{**told, "published": PublishedData(**data)})

    def takes(self, n: int) -> bool:
        """Whether so many datasets may play it."""
        return (n > 0 or not self.required) and (n < 2 or self.repeatable)

    @property
    def number(self) -> str:
        """How many datasets may play it, in words."""
        if self.repeatable:
            return "1 or more" if self.required else "any number"
        return "1" if self.required else "at most 1"


class Run(Protocol):
    """How a study is run."""

    def __call__(
        self,
        data: Mapping[str, Sequence[str]],
        *,
        out: Path,
        settings: Sequence[str],
        seed: int,
        overwrite: bool,
        say: Say,
    ) -> Report:
        """Run or resume the study in the folder `out`; `data` names datasets by role, `settings` are key=value."""


@dataclass(frozen=True, slots=True)
class Description:
    """What is told of a study: its name, what it compares, whose work it is, its main published figure, its roles.

    `needs` are settings without which it does not run, each with what it stands for.
    """

    name: str
    summary: str
    citation: str
    headline: str
    roles: tuple[Role, ...]
    needs: Mapping[str, str]

    def check_roles(self, data: Mapping[str, Sequence[str]]) -> None:
        """Raise `InputError` for an unknown role, or for too few or too many datasets in one."""
        known = {role.name: role for role in self.roles}
        for name in data:
            if name not in known:
                raise InputError(f"the study {self.name} has no role {name!r}", remedy=near_matches(name, known))
        for role in self.roles:
            n = len(data.get(role.name, ()))
            if not role.takes(n):
                what = f"{role.what} (published: {role.published.title})"
                raise InputError(
                    f"the study {self.name} takes another number of {role.name}: {what}",
                    expected=role.number,
                    got=str(n),
                    remedy=f"Say --data {role.name}=SPEC.",
                )


@dataclass(frozen=True, slots=True)
class Study(Description):
    """A study that can be run."""

    run: Run

    @classmethod
    def of(cls, name: str, run: Run) -> Study:
        """The study told of in the file `name`.toml, run by `run`."""
        told = describe(name)
        return cls(told.name, told.summary, told.citation, told.headline, told.roles, told.needs, run)


def published(name: str) -> dict[str, Any]:
    """What is told of a study and its published numbers, from its TOML file."""
    return tomllib.loads(resources.files(__package__).joinpath("published", f"{name}.toml").read_text(encoding="utf-8"))


def describe(name: str) -> Description:
    """What is told of a study, from its TOML file; a study's name has hyphens where its file's has underscores."""
    told = published(name)
    roles = tuple(Role.of(role, each) for role, each in told["roles"].items())
    return Description(
        name.replace("_", "-"), told["summary"], told["citation"], told["headline"], roles, told.get("needs", {})
    )
