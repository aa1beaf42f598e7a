"""Reproductions of published studies, with the published numbers.

Begin with `STUDIES`, the table, and `base.Study`. One module or folder a study; roles, citation and published numbers are
TOML in `published/`; `catalogue` lists the data that each study needs, and finds them in a folder.
Imports `benchmark`, `runs` and the rooms below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from hemalens.errors import InputError, near_matches, public
from hemalens.files import PathLike, as_path
from hemalens.progress import Say
from hemalens.studies.base import Description, Study, StudyOptions, describe

if TYPE_CHECKING:
    from hemalens.evaluation.results import Report

__all__ = ["STUDIES", "Description", "Study", "StudyOptions", "describe_study", "find_study", "run_study"]

STUDIES: Mapping[str, str] = {
    "bc-sam": "hemalens.studies.bc_sam.run",
    "bloodshot": "hemalens.studies.bloodshot.run",
    "mobilevit": "hemalens.studies.mobilevit.run",
    "wbc-augmentation": "hemalens.studies.wbc.augmentation",
    "wbc-combined": "hemalens.studies.wbc.combined",
}
"""Module of each study; loaded on use."""


def describe_study(name: str) -> Description:
    """The description of a study, without loading it; raises `InputError` with near matches for an unknown one."""
    _module(name)
    return describe(name.replace("-", "_"))


def find_study(name: str) -> Study:
    """A study by name; raises `InputError` with near matches for an unknown one."""
    study: Study = import_module(_module(name)).STUDY
    return study


@public
def run_study(
    name: str,
    *,
    data: Mapping[str, PathLike | Sequence[PathLike]],
    out: PathLike,
    settings: Sequence[str] = (),
    published_only: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    say: Say = lambda text: None,
) -> Report:
    """Run a study in the folder `out`, write its report there, and return it; the same call resumes a stopped run.

    `data` names the dataset of each role, or a list of them where a role takes several. `settings` are key=value.
    `published_only` leaves out the study's own rows. Raises `InputError` for an unknown study or role.
    """
    # the help lists the studies, and shows nothing of what these load
    from hemalens.config import check_flag, check_text, check_texts
    from hemalens.datasets.open import check_specs

    check_text(name, "the study")
    check_texts(settings, "the settings")
    check_flag(published_only, "published_only")
    if not isinstance(data, Mapping):
        raise InputError("data name no roles", expected="a dict from role to dataset", got=type(data).__name__)
    # the study says what an empty role needs
    specs = {role: [] if given in ([], ()) else check_specs(given, f"the data of {role}") for role, given in data.items()}
    options = StudyOptions(
        as_path(out, "out"), settings, published_only=published_only, seed=seed, overwrite=overwrite, say=say
    )
    return find_study(name).run(specs, options)


def _module(name: str) -> str:
    if name not in STUDIES:
        raise InputError(f"unknown study {name!r}", remedy=near_matches(name, STUDIES))
    return STUDIES[name]
