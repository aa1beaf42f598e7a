"""The published studies at a glance: the data each needs, what of it is there, and its main published figure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hemalens.datasets import READERS, open_dataset
from hemalens.errors import HemalensError, InputError, near_matches, one_line
from hemalens.studies import STUDIES, describe_study
from hemalens.studies.base import Description, Role
from hemalens.taxonomy import AS_LABELLED

DEPTH = 2
"""How many folders deep data are looked for: DATA/matek19/AML-Cytomorphology_LMU."""
UNSOUGHT = {"prcc", "bloodmnist"}
"""Readers that are not tried on folders of any name: one takes every folder of images, the other unpacks what it opens."""


@dataclass(frozen=True, slots=True)
class Found:
    """Data that its reader has opened: what to say for it, how many images; whether they were drawn, not photographed."""

    spec: str
    n_images: int
    synthetic: bool


@dataclass(frozen=True, slots=True)
class RoleData:
    """A role, the published data and how many images these are, what may play it, and why their reader refused data of
    the right name.
    """

    name: str
    what: str
    published: str
    n_published: int
    required: bool
    repeatable: bool
    found: tuple[Found, ...] = ()
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StudyEntry:
    """A study with its roles and the settings that it needs; `command` runs it on what was found, "" where a role that
    must be played is not.
    """

    name: str
    summary: str
    citation: str
    headline: str
    roles: tuple[RoleData, ...]
    needs: Mapping[str, str]
    command: str = ""


@dataclass(frozen=True, slots=True)
class Index:
    """All studies, the folder that was searched (None: none was), and what else of known layouts lies there."""

    root: str | None
    studies: tuple[StudyEntry, ...]
    others: tuple[Found, ...] = ()


@dataclass
class _Search:
    """Opens data once, whichever roles ask for it."""

    root: Path | None
    given: Mapping[str, Sequence[str]]
    opened: dict[str, Found | str] = field(default_factory=dict)

    def open(self, spec: str) -> Found | str:
        """The data, or why they cannot be opened."""
        if spec not in self.opened:
            try:
                dataset = open_dataset(spec, labels=AS_LABELLED)
                self.opened[spec] = Found(spec, len(dataset), dataset.synthetic)
            except (HemalensError, OSError) as error:
                self.opened[spec] = str(error)
        return self.opened[spec]

    def specs(self, role: Role) -> list[str]:
        """What was named for the role, or the folders below the root with a name of its published data."""
        if self.given or self.root is None:
            return list(self.given.get(role.name, ()))
        folders = [folder for glob in role.published.paths for folder in _named(self.root, glob)]
        return [f"{role.published.reader}:{folder}" for folder in folders]

    def role(self, role: Role) -> RoleData:
        """The role with what may play it."""
        results = [self.open(spec) for spec in self.specs(role)]
        return RoleData(
            role.name,
            role.what,
            role.published.title,
            role.published.n_images,
            role.required,
            role.repeatable,
            found=tuple(result for result in results if isinstance(result, Found)),
            refused=tuple(result for result in results if isinstance(result, str)),
        )

    def study(self, told: Description) -> StudyEntry:
        """The study with what may play its roles."""
        roles = tuple(self.role(role) for role in told.roles)
        command = _command(told, roles)
        return StudyEntry(told.name, told.summary, told.citation, told.headline, roles, told.needs, command)

    def others(self) -> Iterator[Found]:
        """What else lies below the root in a layout that a reader of published data knows."""
        if self.root is None:
            return
        for name, reader in READERS.items():
            if reader.own_labels or reader.synthetic or name in UNSOUGHT:
                continue
            taken: list[Path] = []
            for folder in _folders(self.root):
                if any(folder.is_relative_to(above) for above in taken):
                    continue
                result = self.open(f"{name}:{folder}")
                if isinstance(result, Found):
                    taken.append(folder)
                    yield result


def study_index(root: Path | None = None, given: Mapping[str, Sequence[str]] | None = None) -> Index:
    """All studies with the data they need, as far as they lie in the folder `root` or are `given` by role.

    Published data are known by the name of their folder, and count when their reader opens them; nothing else is taken for
    them. Raises `InputError` for a folder that is not there, a role that no study has, or both ways at once.
    """
    named = dict(given or {})
    if root is not None and named:
        raise InputError("data are either named or looked for in a folder", remedy="Say --data ROLE=SPEC or --root DIR.")
    if root is not None and not root.is_dir():
        raise InputError(f"there is no folder {one_line(root)}", expected="the folder that holds the data")
    told = [describe_study(name) for name in STUDIES]
    known = {role.name for each in told for role in each.roles}
    for name in named:
        if name not in known:
            raise InputError(f"no study has a role {name!r}", remedy=near_matches(name, known))
    search = _Search(root, named)
    studies = tuple(search.study(each) for each in told)
    shown = {found.spec for entry in studies for role in entry.roles for found in role.found}
    others = tuple(found for found in search.others() if not _holds(found.spec, shown))
    return Index(None if root is None else str(root), studies, others)


def _holds(spec: str, shown: set[str]) -> bool:
    """Whether the data are among those shown, or hold one of them."""
    reader, _, folder = spec.partition(":")
    pairs = [other.partition(":") for other in shown]
    return any(name == reader and Path(path).is_relative_to(folder) for name, _, path in pairs)


def _command(told: Description, roles: Sequence[RoleData]) -> str:
    """The command that runs the study on what was found; "" where it cannot run."""
    if any(role.required and not role.found for role in roles):
        return ""
    words = ["hemalens", "study", told.name]
    for role in roles:
        words += [word for found in role.found[:1] for word in ("--data", f"{role.name}={found.spec}")]
    words += [word for setting in told.needs for word in ("--set", setting)]
    return shlex.join([*words, "--out", f"runs/{told.name}"])


def _folders(root: Path) -> list[Path]:
    """The folder and those in it, `DEPTH` deep, hidden ones left out; upper ones first."""
    level, found = [root], [root]
    for _ in range(DEPTH):
        level = [p for folder in level for p in _entries(folder) if p.is_dir() and not p.name.startswith(".")]
        found += level
    return found


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:  # a folder that may not be read holds nothing for us
        return []


def _named(root: Path, glob: str) -> list[Path]:
    """The folders that match, in the root or `DEPTH` folders deep, or the root itself; upper ones first."""
    if root.resolve().match(glob):
        return [root]
    patterns = ("*/" * depth + glob for depth in range(DEPTH))
    return [path for pattern in patterns for path in sorted(root.glob(pattern)) if path.is_dir()]
