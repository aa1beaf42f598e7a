"""What every study is: which data it needs, its settings, and a run that gives a report with the published numbers."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

from hemalens.errors import InputError, near_matches
from hemalens.evaluation.results import Report

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Role:
    """A part that data plays in a study: what it is, and how many datasets may play it (`most` None: any number)."""

    name: str
    what: str
    least: int = 1
    most: int | None = 1


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
class Study:
    """A study by name: what it compares in one line, the data it takes, and its run."""

    name: str
    summary: str
    roles: tuple[Role, ...]
    run: Run

    def check_roles(self, data: Mapping[str, Sequence[str]]) -> None:
        """Raise `InputError` for an unknown role, or for too few or too many datasets in one."""
        known = {role.name: role for role in self.roles}
        for name in data:
            if name not in known:
                raise InputError(f"the study {self.name} has no role {name!r}", remedy=near_matches(name, known))
        for role in self.roles:
            n = len(data.get(role.name, ()))
            if n < role.least or (role.most is not None and n > role.most):
                number = f"{role.least} or more" if role.most is None else f"at most {role.most}"
                raise InputError(
                    f"the study {self.name} takes another number of {role.name}: {role.what}",
                    expected=str(role.least) if role.least == role.most else number,
                    got=str(n),
                    remedy=f"Say --data {role.name}=SPEC.",
                )


def published(name: str) -> dict[str, Any]:
    """The published numbers of a study, from its TOML file."""
    return tomllib.loads(resources.files(__package__).joinpath(f"{name}.toml").read_text(encoding="utf-8"))
