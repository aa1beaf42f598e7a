"""The rules of counting and their file."""

from __future__ import annotations

from pathlib import Path

import pytest

from hemalens.differential.rules import GENERAL_ADULT, CountRules, Flag, is_leukocyte, load_rules
from hemalens.errors import ConfigError

FILE = """
target = 200
smudge_cells = "as lymphocytes"
platelets_per_field = 20_000
own_types = ["sezary_cell"]
[flags.sezary]
types = ["sezary_cell"]
cells = 1
[reference]
neutrophil = { low = 40, high = 75 }
"""


def _load(folder: Path, text: str) -> CountRules:
    file = folder / "rules.toml"
    file.write_text(text, encoding="utf-8")
    return load_rules(file)


def test_a_file_replaces_flags_and_intervals(tmp_path: Path) -> None:
    rules = _load(tmp_path, FILE)
    assert (rules.target, rules.smudge_cells, rules.platelets_per_field) == (200, "as lymphocytes", 20_000)
    assert (list(rules.flags), list(rules.reference)) == (["sezary"], ["neutrophil"])
    assert rules.reference_source == "the laboratory's own"
    assert rules.nucleated_red_cells_from == 5


def test_defaults() -> None:
    rules = load_rules()
    assert rules == CountRules()
    assert rules.reference_source == GENERAL_ADULT
    assert (rules.target, rules.smudge_cells, rules.nucleated_red_cells_from) == (None, "per 100", 5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("targets = 100", "did you mean 'target'"),
        ("target = 0", "greater than or equal to 1"),
        ("target = 100.5", "integer"),
        ('smudge_cells = "none"', "'per 100', 'counted' or 'as lymphocytes'"),
        ("[reference]\nneutrophill = { low = 4, high = 7 }", "did you mean 'neutrophil'"),
        ("[reference]\nneutrophil = { low = 75, high = 40 }", "descends"),
        ("[reference]\nneutrophil = { low = nan, high = 40 }", "finite"),
        ("[flags.b]\ntypes = ['blas']\ncells = 1", "did you mean 'blast'"),
        ("[flags.b]\ntypes = ['blast']", "one threshold"),
        ("[flags.b]\ntypes = ['blast']\ncells = 1\nabove = 3", "one threshold"),
        ("[flags.b]\ntypes = []\ncells = 1", "at least 1 item"),
        ("own_types = ['blast']", "is a cell type of hemalens"),
        ("platelets_per_field = inf", "finite"),
        ("width = 100", "less than 100"),
        ("target = ", "not valid TOML"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=r"rules\.toml") as caught:
        _load(tmp_path, text)
    assert words in str(caught.value)


def test_thresholds() -> None:
    assert Flag(types=["blast"], cells=2).reached(2, 0.1)
    assert not Flag(types=["blast"], cells=2).reached(1, 50)
    assert Flag(types=["blast"], percent=1).reached(1, 1.0)
    assert not Flag(types=["blast"], above=1).reached(1, 1.0)
    assert Flag(types=["blast"], above=0).reached(1, 0.1)


def test_leukocytes() -> None:
    names = ("segmented_neutrophil", "blast", "platelet", "erythroblast", "smudge_cell", "artefact", "sezary_cell")
    assert [is_leukocyte(name) for name in names] == [True, True, False, False, False, False, True]
