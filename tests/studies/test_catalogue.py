"""The index of the published studies: what each needs, what of it lies in a folder, and the figures it quotes."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from fakes import FAKES, wbc_subsets
from hemalens.datasets import READERS, open_dataset
from hemalens.datasets.base import SYNTHETIC_MARKER
from hemalens.errors import InputError
from hemalens.studies import STUDIES, describe_study
from hemalens.studies.base import published
from hemalens.studies.catalogue import DEPTH, Index, RoleData, study_index


def _file(name: str) -> str:
    return name.replace("-", "_")


def _numbers(value: object) -> Iterator[float]:
    """All numbers of the published tables; the shares that name columns as percentages."""
    if isinstance(value, bool | str):
        return
    if isinstance(value, int | float):
        yield float(value)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner)
            yield from [100 * float(key)] if re.fullmatch(r"[0-9.]+", key) else []
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner)


@pytest.mark.parametrize("name", STUDIES)
def test_every_figure_of_a_main_result_stands_in_the_published_tables(name: str) -> None:
    told: dict[str, Any] = published(_file(name))
    quoted = [float(text) for text in re.findall(r"(?<![\w.-])[0-9]+(?:\.[0-9]+)?", told["main_result"])]
    tables = {key: value for key, value in told.items() if key != "roles"}
    known = list(_numbers(tables))
    assert len(quoted) >= 3
    assert {role["published"]["reader"] for role in told["roles"].values()} <= set(READERS)
    assert [x for x in quoted if not any(abs(x - k) < 1e-9 for k in known)] == []


def test_telling_loads_no_training_library() -> None:
    code = "import sys; from hemalens.studies.catalogue import study_index; study_index(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_without_a_folder_nothing_is_searched() -> None:
    index = study_index()
    assert index.root is None
    assert [entry.name for entry in index.studies] == list(STUDIES)
    assert all(role.found == () and role.refused == () for entry in index.studies for role in entry.roles)
    assert {entry.command for entry in index.studies} == {""}
    assert all(role.n_published > 0 for entry in index.studies for role in entry.roles)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Matek-19, Acevedo-20, JTSC, C-NMC, WBC_100 and WBC_10, each in a folder of its own."""
    root = tmp_path_factory.mktemp("all") / "my data"
    for name in ("matek19", "acevedo20", "jtsc"):
        FAKES[name](root / name, n_per_class=1)
    FAKES["cnmc"](root / "cnmc", n_per_class=1)
    wbc_subsets.write(root / "white", n_per_class=2, subsets=("WBC_100", "WBC_10"))
    return root


@pytest.fixture(scope="module")
def index(data: Path) -> Index:
    return study_index(data)


def _roles(index: Index, study: str) -> dict[str, RoleData]:
    return {role.name: role for entry in index.studies if entry.name == study for role in entry.roles}


def test_published_data_are_found_by_name_and_opened_by_their_reader(index: Index, data: Path) -> None:
    matek = f"matek19:{data / 'matek19' / 'AML-Cytomorphology_LMU'}"
    (found,) = _roles(index, "mobilevit")["cells"].found
    assert (found.spec, found.n_images) == (matek, len(open_dataset(matek, labels="as_labelled")))
    few = _roles(index, "bloodshot")
    assert [found.spec for found in few["novel"].found] == [f"cnmc:{data / 'cnmc' / 'C-NMC_test_prelim_phase_data'}"]
    assert [found.spec for found in few["support"].found] == [f"cnmc:{data / 'cnmc' / 'C-NMC_training_data' / 'fold_0'}"]
    white = _roles(index, "wbc-combined")
    assert {name: len(role.found) for name, role in white.items()} == {
        "wbc": 1,
        "held": 1,
        "wbc_50": 0,
        "wbc_10": 1,
        "wbc_1": 0,
        "cam16": 0,
        "cam16_held": 0,
        "cam16_test": 0,
        "prcc": 0,
    }


@pytest.mark.parametrize("inner", ["AML-Cytomorphology_LMU", ""])
def test_matek19_is_found_once_in_the_folder_of_its_download(tmp_path: Path, inner: str) -> None:
    FAKES["matek19"](tmp_path / "set", n_per_class=1)
    download = tmp_path / "all" / "PKG - AML-Cytomorphology_LMU"
    (download / inner).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "set" / "AML-Cytomorphology_LMU").rename(download / inner)
    (found,) = _roles(study_index(tmp_path / "all"), "mobilevit")["cells"].found
    assert (found.spec, found.n_images) == (f"matek19:{download}", 15)


def test_a_study_whose_data_are_there_has_its_command(index: Index) -> None:
    commands = {entry.name: entry.command for entry in index.studies}
    assert [name for name, command in commands.items() if not command] == ["wbc-augmentation", "wbc-combined"], (
        "CAM16 is not there"
    )
    words = shlex.split(commands["bloodshot"])
    specs = dict(word.split("=", 1) for word in words if "=" in word)
    assert set(specs) == {"generic", "novel", "support"}
    describe_study("bloodshot").check_roles({role: [spec] for role, spec in specs.items()})
    assert "features.segmenter=FOLDER" in shlex.split(commands["bc-sam"])


def test_other_data_of_a_known_layout_are_named_once(index: Index, data: Path) -> None:
    specs = {found.spec for found in index.others}
    assert f"jtsc:{data / 'jtsc'}" in specs
    assert not any(spec.startswith(("matek19:", "acevedo20:", "folder:", "csv:", "prcc:")) for spec in specs)
    assert len(specs) == len(index.others)


def test_what_its_reader_refuses_is_said_and_not_taken(data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "AML-Cytomorphology_LMU"
    (broken / "BAS").mkdir(parents=True)
    cells = _roles(study_index(tmp_path), "mobilevit")["cells"]
    assert cells.found == ()
    assert "not laid out as Matek-19" in cells.refused[0]
    shutil.copytree(data / "matek19" / "AML-Cytomorphology_LMU", tmp_path / "a" / "AML-Cytomorphology_LMU")
    cells = _roles(study_index(tmp_path), "mobilevit")["cells"]
    assert (len(cells.found), len(cells.refused)) == (1, 1)
    assert _roles(study_index(tmp_path / "a" / "AML-Cytomorphology_LMU"), "mobilevit")["cells"].found


def test_nothing_is_looked_for_deeper_or_in_hidden_folders(data: Path, tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*"abc"[: DEPTH + 1])
    shutil.copytree(data / "matek19", deep)
    shutil.copytree(data / "jtsc", tmp_path / ".hidden")
    index = study_index(tmp_path)
    assert _roles(index, "mobilevit")["cells"].found == ()
    assert index.others == ()


def test_drawn_images_are_said_to_be_drawn(tmp_path: Path) -> None:
    FAKES["prcc"](tmp_path, n_per_class=1)
    assert not _roles(study_index(tmp_path), "wbc-combined")["prcc"].found[0].synthetic
    (tmp_path / "pRCC_nolabel" / SYNTHETIC_MARKER).write_text("{}")
    assert _roles(study_index(tmp_path), "wbc-combined")["prcc"].found[0].synthetic


def test_data_named_by_role(data: Path) -> None:
    spec = f"jtsc:{data / 'jtsc'}"
    index = study_index(given={"cells": [spec], "wbc": [spec, "folder:nowhere"]})
    assert _roles(index, "mobilevit")["cells"].found[0].spec == spec
    for study in ("wbc-augmentation", "wbc-combined"):
        white = _roles(index, study)["wbc"]
        assert (len(white.found), len(white.refused)) == (1, 1)
    assert index.others == ()
    assert asdict(index)["root"] is None


def test_wrong_questions_are_refused(data: Path) -> None:
    with pytest.raises(InputError, match=r"no study has a role 'cels'\. did you mean 'cells'"):
        study_index(given={"cels": ["folder:x"]})
    with pytest.raises(InputError, match="there is no folder"):
        study_index(data / "nowhere")
    with pytest.raises(InputError, match="both by role and by folder"):
        study_index(data, {"cells": ["folder:x"]})
    with pytest.raises(InputError, match="did you mean 'bloodshot'"):
        describe_study("bloodshoot")
