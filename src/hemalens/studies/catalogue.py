"""The list of studies: the data that each needs, which of them a folder holds, and the main published result."""

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
"""Depth of the search for data: DATA/matek19/AML-Cytomorphology_LMU."""
UNSOUGHT = {"prcc", "bloodmnist"}
"""Readers that the search leaves out: one opens every folder of images, the other unpacks files."""


@dataclass(frozen=True, slots=True)
class Found:
    """Data that a reader has opened: name, number of images, and whether they are synthetic."""

    spec: str
    n_images: int
    synthetic: bool


@dataclass(frozen=True, slots=True)
class RoleData:
    """A role, its published data and their number of images, the data found for it, and errors of data with its name."""

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
    """A study with its roles and required settings; `command` runs it on the data found, "" where a role lacks data."""

    name: str
    summary: str
    citation: str
    main_result: str
    roles: tuple[RoleData, ...]
    needs: Mapping[str, str]
    command: str = ""


@dataclass(frozen=True, slots=True)
class Index:
    """All studies, the folder that was searched (None: no search), and other data of known layouts in it."""

    root: str | None
    studies: tuple[StudyEntry, ...]
    others: tuple[Found, ...] = ()


@dataclass
class _Search:
    """Opens data once for all roles."""

    root: Path | None
    given: Mapping[str, Sequence[str]]
    opened: dict[str, Found | str] = field(default_factory=dict)

    def open(self, spec: str) -> Found | str:
        """The data, or the error that opening them raised."""
        if spec not in self.opened:
            try:
                dataset = open_dataset(spec, labels=AS_LABELLED)
                self.opened[spec] = Found(spec, len(dataset), dataset.synthetic)
            except (HemalensError, OSError) as error:
                self.opened[spec] = str(error)
        return self.opened[spec]

    def specs(self, role: Role) -> list[str]:
        """The data given for the role, or the folders below the root with a name of its published data."""
        if self.given or self.root is None:
            return list(self.given.get(role.name, ()))
        folders = [folder for glob in role.published.paths for folder in _named(self.root, glob)]
        inside = {folder for folder in folders if any(above in folder.parents for above in folders)}
        return [f"{role.published.reader}:{folder}" for folder in folders if folder not in inside]

    def role(self, role: Role) -> RoleData:
        """The role with the data found for it."""
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

    def study(self, study: Description) -> StudyEntry:
        """The study with the data found for its roles."""
        roles = tuple(self.role(role) for role in study.roles)
        command = _command(study, roles)
        return StudyEntry(study.name, study.summary, study.citation, study.main_result, roles, study.needs, command)

    def others(self) -> Iterator[Found]:
        """Data below the root in the layout of any reader of published data."""
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
    """All studies with the data they need, found in the folder `root` or `given` by role.

    Published data are found by the name of their folder, and count when their reader opens them. Raises `InputError` for a
    folder that does not exist, a role that no study has, or `root` and `given` at once.
    """
    named = dict(given or {})
    if root is not None and named:
        raise InputError("data are given both by role and by folder", remedy="Use either --data ROLE=SPEC or --root DIR.")
    if root is not None and not root.is_dir():
        raise InputError(f"there is no folder {one_line(root)}", expected="the folder that holds the data")
    described = [describe_study(name) for name in STUDIES]
    known = {role.name for each in described for role in each.roles}
    for name in named:
        if name not in known:
            raise InputError(f"no study has a role {name!r}", remedy=near_matches(name, known))
    search = _Search(root, named)
    studies = tuple(search.study(each) for each in described)
    shown = {found.spec for entry in studies for role in entry.roles for found in role.found}
    others = tuple(found for found in search.others() if not _holds(found.spec, shown))
    return Index(None if root is None else str(root), studies, others)


def _holds(spec: str, shown: set[str]) -> bool:
    """Whether the data are among those shown, or contain one of them."""
    reader, _, folder = spec.partition(":")
    pairs = [other.partition(":") for other in shown]
    return any(name == reader and Path(path).is_relative_to(folder) for name, _, path in pairs)


def _command(study: Description, roles: Sequence[RoleData]) -> str:
    """The command that runs the study on the data found; "" where it cannot run."""
    if any(role.required and not role.found for role in roles):
        return ""
    words = ["hemalens", "study", study.name]
    for role in roles:
        words += [word for found in role.found[:1] for word in ("--data", f"{role.name}={found.spec}")]
    words += [word for setting in study.needs for word in ("--set", setting)]
    return shlex.join([*words, "--out", f"runs/{study.name}"])


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
    except OSError:  # an unreadable folder counts as empty
        return []


def _named(root: Path, glob: str) -> list[Path]:
    """The folders that match, in the root or `DEPTH` folders deep, or the root itself; upper ones first."""
    if root.resolve().match(glob):
        return [root]
    patterns = ("*/" * depth + glob for depth in range(DEPTH))
    return [path for pattern in patterns for path in sorted(root.glob(pattern)) if path.is_dir()]
