"""Cell types and label maps against lists written down independently, from the datasets' papers and loinc.org."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemalens import taxonomy
from hemalens.datasets import READERS
from hemalens.errors import LabelError
from hemalens.taxonomy import (
    AS_LABELLED,
    Excluded,
    cell_type_of,
    cell_types,
    find_cell_type,
    is_mature,
    is_urgent,
    label_map,
    label_map_names,
    unclear_labels,
)

MAPS = [name for name in label_map_names() if name != AS_LABELLED]

THIRTEEN = (
    *("basophil", "eosinophil", "erythroblast", "myeloblast", "promyelocyte", "myelocyte", "metamyelocyte"),
    *("band_neutrophil", "segmented_neutrophil", "monocyte", "lymphocyte", "variant_lymphocyte", "smudge_cell"),
)
"""The classes of BC-SAM, in the order of its ids 0 to 12."""

# label: cell type and id in the thirteen-class map, None where the map leaves it out
MATEK19: dict[str, tuple[str, int | None]] = {
    "BAS": ("basophil", 0),
    "EOS": ("eosinophil", 1),
    "EBO": ("erythroblast", 2),
    "MYO": ("myeloblast", 3),
    "PMO": ("promyelocyte", 4),
    "MYB": ("myelocyte", 5),
    "MMZ": ("metamyelocyte", 6),
    "NGB": ("band_neutrophil", 7),
    "NGS": ("segmented_neutrophil", 8),
    "MON": ("monocyte", 9),
    "MOB": ("monoblast", 9),
    "LYT": ("lymphocyte", 10),
    "LYA": ("variant_lymphocyte", 11),
    "KSC": ("smudge_cell", 12),
    "PMB": ("bilobed_promyelocyte", None),
}
ACEVEDO20: dict[str, tuple[str, int | None]] = {
    "BA": ("basophil", 0),
    "EO": ("eosinophil", 1),
    "ERB": ("erythroblast", 2),
    "PMY": ("promyelocyte", 4),
    "MY": ("myelocyte", 5),
    "MMY": ("metamyelocyte", 6),
    "IG": ("immature_granulocyte", None),
    "BNE": ("band_neutrophil", 7),
    "SNE": ("segmented_neutrophil", 8),
    "NEUTROPHIL": ("neutrophil", None),
    "MO": ("monocyte", 9),
    "LY": ("lymphocyte", 10),
    "PLATELET": ("platelet", None),
}
FIVE = {name: name.lower() for name in ("Basophil", "Eosinophil", "Lymphocyte", "Monocyte", "Neutrophil")}
NUMBERED = {"1": "neutrophil", "2": "lymphocyte", "3": "monocyte", "4": "eosinophil", "5": "basophil"}
MEANINGS: dict[str, dict[str, str | None]] = {
    "matek19": {label: code for label, (code, _) in MATEK19.items()},
    "acevedo20": {label: code for label, (code, _) in ACEVEDO20.items()} | {".DS": None},
    "cnmc": {"all": "lymphoblast", "hem": "lymphoid_precursor"},
    "raabin": dict(FIVE),
    "wbc_subsets": dict(FIVE),
    "cam16": {"normal": None, "tumor": None},
    "prcc": {"unlabelled": None, "type1": None, "type2": None},
    "bccd": dict(FIVE),
    "bloodmnist": {
        **{name: name for name in ("basophil", "eosinophil", "erythroblast", "lymphocyte", "monocyte", "neutrophil")},
        "platelet": "platelet",
        "immature granulocytes": "immature_granulocyte",
    },
    "jtsc": dict(NUMBERED),
    "cellavision100": dict(NUMBERED),
    "bccd_fields": {"WBC": "leukocyte", "RBC": "erythrocyte", "Platelets": "platelet"},
}
LOINC = {
    "neutrophil": "26511-6",
    "segmented_neutrophil": "26505-8",
    "band_neutrophil": "26508-2",
    "lymphocyte": "26478-8",
    "variant_lymphocyte": "13046-8",
    "monocyte": "26485-3",
    "eosinophil": "26450-7",
    "basophil": "30180-4",
    "blast": "26446-5",
    "myeloblast": "30445-1",
    "promyelocyte": "26524-9",
    "myelocyte": "26498-6",
    "metamyelocyte": "28541-1",
    "smudge_cell": "34992-8",
    "plasma_cell": "13047-6",
}


# Source labels


@pytest.mark.parametrize("dataset", MEANINGS)
def test_source_labels_are_exactly_the_dataset_s_and_mean_what_its_authors_say(dataset: str) -> None:
    found = {k: None if isinstance(v, Excluded) else v for k, v in READERS[dataset].labels.items()}
    assert found == MEANINGS[dataset]


def test_tissue_alone_is_a_class_of_its_own_where_labels_stay_as_they_are() -> None:
    for dataset in MEANINGS:
        for label, meaning in READERS[dataset].labels.items():
            if isinstance(meaning, Excluded):
                assert meaning.own_class is (dataset in ("cam16", "prcc")), (dataset, label)


def test_the_lists_have_the_published_lengths() -> None:
    lengths = {"matek19": 15, "acevedo20": 13 + 1, "cnmc": 2, "raabin": 5, "bloodmnist": 8}
    assert {name: len(READERS[name].labels) for name in lengths} == lengths


# Label maps


@pytest.mark.parametrize("name", MAPS)
def test_label_map_is_total_and_each_type_stands_once(name: str) -> None:
    chosen = label_map(name)
    assert set(chosen.assignments) == set(cell_types())
    targets = [target for target in chosen.assignments.values() if not isinstance(target, Excluded)]
    assert set(targets) == set(chosen.classes)
    assert len(set(chosen.classes)) == len(chosen.classes) >= 2
    assert all(target.reason.strip() for target in chosen.assignments.values() if isinstance(target, Excluded))
    assert chosen.name == name
    assert chosen.description


def test_the_named_maps_are_those_of_the_design() -> None:
    assert label_map_names() == (
        *("five_class", "eight_class", "smear", "thirteen_class", "fab_eight", "blast_or_not", "as_labelled"),
    )


@pytest.mark.parametrize("labels", [MATEK19, ACEVEDO20], ids=["matek19", "acevedo20"])
def test_thirteen_classes_stand_in_the_published_order(labels: dict[str, tuple[str, int | None]]) -> None:
    chosen = label_map("thirteen_class")
    assert chosen.classes == THIRTEEN
    for code, number in labels.values():
        target = chosen[code]
        assert isinstance(target, Excluded) if number is None else target == THIRTEEN[number]


def test_bc_sam_keeps_ten_classes_of_acevedo_and_thirteen_of_matek() -> None:
    chosen = label_map("thirteen_class")
    for labels, n_classes in ((ACEVEDO20, 10), (MATEK19, 13)):
        assert len({chosen[code] for code, number in labels.values() if number is not None}) == n_classes


def test_five_classes_take_only_the_mature_cells() -> None:
    chosen = label_map("five_class")
    assert chosen.classes == ("neutrophil", "eosinophil", "basophil", "lymphocyte", "monocyte")
    for code in ("band_neutrophil", "segmented_neutrophil", "neutrophil"):
        assert chosen[code] == "neutrophil"
    for code in ("blast", "monoblast", "promyelocyte", "leukocyte", "erythroblast", "platelet", "smudge_cell"):
        assert isinstance(chosen[code], Excluded)


def test_eight_classes_are_the_folders_of_acevedo() -> None:
    chosen = label_map("eight_class")
    folders = {
        "BA": "basophil",
        "EO": "eosinophil",
        "ERB": "erythroblast",
        "LY": "lymphocyte",
        "MO": "monocyte",
        "PMY": "immature_granulocyte",
        "MY": "immature_granulocyte",
        "MMY": "immature_granulocyte",
        "IG": "immature_granulocyte",
        "BNE": "neutrophil",
        "SNE": "neutrophil",
        "NEUTROPHIL": "neutrophil",
        "PLATELET": "platelet",
    }
    assert {label: chosen[code] for label, (code, _) in ACEVEDO20.items()} == folders
    assert set(chosen.classes) == set(folders.values())
    assert len(chosen.classes) == 8


SMEAR = (
    *("neutrophil", "eosinophil", "basophil", "lymphocyte", "monocyte"),
    *("immature_granulocyte", "erythroblast", "blast", "platelet", "artefact"),
)


def test_the_smear_s_classes_cover_the_source_labels_of_three_sets() -> None:
    chosen = label_map("smear")
    assert chosen.classes == SMEAR
    folders = {label: chosen[code] for label, (code, _) in ACEVEDO20.items()}
    assert folders == {label: label_map("eight_class")[code] for label, (code, _) in ACEVEDO20.items()}
    found = " ".join(f"{label}={chosen[code]}" for label, (code, _) in MATEK19.items())
    assert found == (
        "BAS=basophil EOS=eosinophil EBO=erythroblast MYO=blast PMO=immature_granulocyte MYB=immature_granulocyte "
        "MMZ=immature_granulocyte NGB=neutrophil NGS=neutrophil MON=monocyte MOB=blast LYT=lymphocyte LYA=lymphocyte "
        "KSC=artefact PMB=immature_granulocyte"
    )
    for code, target in {"erythrocyte": "artefact", "giant_platelet": "platelet", "platelet_clump": "artefact"}.items():
        assert chosen[code] == target
    assert {code for code, target in chosen.assignments.items() if isinstance(target, Excluded)} == {
        *("hairy_cell", "plasma_cell", "leukocyte", "other_cell"),
    }


def test_of_the_smear_s_classes_five_are_mature_and_three_urgent() -> None:
    assert tuple(map(is_mature, SMEAR)) == (True,) * 5 + (False,) * 5
    assert tuple(map(is_urgent, SMEAR)) == (False,) * 5 + (True,) * 3 + (False,) * 2


@pytest.mark.parametrize(
    ("label", "mature", "urgent"),
    [
        ("BandNeutrophil", True, False),
        ("variant lymphocytes", True, False),
        ("Metamyelocyte", False, True),
        ("proerythroblast", False, True),
        ("promonocyte", False, True),
        ("leukocyte", False, False),
        ("smudge_cell", False, False),
        ("not_blast", False, False),
        ("Tuesday", False, False),
        ("", False, False),
    ],
)
def test_a_type_is_as_mature_and_as_urgent_as_its_parent(label: str, mature: bool, urgent: bool) -> None:
    assert (is_mature(label), is_urgent(label)) == (mature, urgent)


def test_every_type_of_an_urgent_class_is_urgent_and_no_type_is_both() -> None:
    chosen = label_map("smear")
    for code in cell_types():
        assert not (is_mature(code) and is_urgent(code))
        if not isinstance(chosen[code], Excluded):
            assert (is_mature(code), is_urgent(code)) == (is_mature(str(chosen[code])), is_urgent(str(chosen[code])))


def test_fab_eight_keeps_every_matek_image_and_puts_the_rest_under_other() -> None:
    chosen = label_map("fab_eight")
    named = (
        "myeloblast",
        "promyelocyte",
        "myelocyte",
        "metamyelocyte",
        "band_neutrophil",
        "segmented_neutrophil",
        "monocyte",
    )
    assert chosen.classes == (*named, "other")
    for code, _ in MATEK19.values():
        assert chosen[code] == (code if code in named else "other")


def test_no_blast_is_called_anything_else_but_in_the_two_published_maps() -> None:
    blasts = [code for code in cell_types() if "blast" in cell_types()[code].lineage()]
    assert set(blasts) == {"blast", "myeloblast", "monoblast", "lymphoblast"}
    for code in blasts:
        assert label_map("blast_or_not")[code] == "blast"
        for name in ("five_class", "eight_class"):
            assert isinstance(label_map(name)[code], Excluded)
    not_blast = [c for c, target in label_map("blast_or_not").assignments.items() if target == "not_blast"]
    assert not set(not_blast) & set(blasts)


def _plant(monkeypatch: pytest.MonkeyPatch, file: str, content: dict[str, Any]) -> None:
    load = taxonomy._load
    monkeypatch.setattr(taxonomy, "_load", lambda name: content if name == file else load(name))


def _map_without(code: str) -> dict[str, Any]:
    chosen = label_map("five_class")
    classes: dict[str, list[str]] = {c: [] for c in chosen.classes}
    excluded: dict[str, list[str]] = {}
    for known, target in chosen.assignments.items():
        if known == code:
            continue
        if isinstance(target, Excluded):
            excluded.setdefault(target.reason, []).append(known)
        else:
            classes[target].append(known)
    return {"made_up": {"description": "x", "classes": classes, "excluded": excluded}}


@pytest.mark.parametrize("code", ["monocyte", "platelet"])
def test_map_that_leaves_a_cell_type_unmentioned_fails(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    _plant(monkeypatch, "label_maps.toml", _map_without(code))
    with pytest.raises(LabelError, match=f"label map made_up is not total.*{code}"):
        label_map.__wrapped__("made_up")


@pytest.mark.parametrize("code", ["monocyte", "neutrofil"])
def test_map_that_names_a_type_twice_or_an_unknown_one_fails(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    planted = _map_without("platelet")
    planted["made_up"]["classes"]["lymphocyte"].append(code)
    _plant(monkeypatch, "label_maps.toml", planted)
    with pytest.raises(LabelError, match=f"label map made_up: cell type '{code}' is unknown or"):
        label_map.__wrapped__("made_up")


def test_unknown_label_map_and_cell_type_name_the_near_ones() -> None:
    with pytest.raises(LabelError, match=r"unknown label map 'thirteen'. did you mean 'thirteen_class'"):
        label_map("thirteen")
    with pytest.raises(LabelError, match=r"unknown cell type 'monocytes'. did you mean 'monocyte'"):
        label_map("five_class")["monocytes"]


# Cell types


def test_loinc_codes_are_those_of_the_counts_per_100_leukocytes() -> None:
    assert {code: t.loinc for code, t in cell_types().items() if t.loinc is not None} == LOINC


def test_loinc_codes_have_a_valid_check_digit() -> None:
    """LOINC's check digit: the Luhn algorithm (mod 10) over the number before the dash."""
    for loinc in LOINC.values():
        number, _, check = loinc.partition("-")
        digits = [int(d) * (2 if i % 2 == 0 else 1) for i, d in enumerate(reversed(number))]
        assert (10 - sum(d // 10 + d % 10 for d in digits) % 10) % 10 == int(check), loinc


@pytest.mark.parametrize(
    ("parent", "children"),
    [
        ("neutrophil", ["band_neutrophil", "segmented_neutrophil"]),
        ("immature_granulocyte", ["promyelocyte", "myelocyte", "metamyelocyte"]),
        ("blast", ["myeloblast", "monoblast", "lymphoblast"]),
        ("promyelocyte", ["bilobed_promyelocyte", "faggot_cell"]),
        ("lymphocyte", ["variant_lymphocyte"]),
        ("leukocyte", ["neutrophil", "eosinophil", "basophil", "lymphocyte", "monocyte", "blast", "immature_granulocyte"]),
        (None, ["leukocyte", "erythroblast", "erythrocyte", "platelet", "smudge_cell"]),
    ],
)
def test_parents_are_those_of_the_design(parent: str | None, children: list[str]) -> None:
    assert [cell_types()[child].parent for child in children] == [parent] * len(children)


def test_lineage_goes_up_to_the_root_and_never_in_a_circle() -> None:
    assert cell_types()["faggot_cell"].lineage() == ("faggot_cell", "promyelocyte", "immature_granulocyte", "leukocyte")
    for code, cell_type in cell_types().items():
        lineage = cell_type.lineage()
        assert lineage[0] == code
        assert len(set(lineage)) == len(lineage) <= 5


def test_a_class_that_holds_a_type_s_child_holds_no_foreign_ancestor() -> None:
    """A map may leave a coarse type out; it must not put a child and its parent into two classes that exclude each other.

    The published exceptions: FAB's `other`, the benchmark's monoblast, and maps that name parent and child as classes.
    """
    for name in ("five_class", "eight_class", "blast_or_not"):
        chosen = label_map(name)
        for code, cell_type in cell_types().items():
            own, parents = chosen[code], [chosen[c] for c in cell_type.lineage()[1:]]
            for above in parents:
                if not isinstance(own, Excluded) and not isinstance(above, Excluded):
                    assert own == above, (name, code)


def test_unknown_parent_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    _plant(monkeypatch, "cell_types.toml", {"a": {"name": "a", "parent": "b"}})
    with pytest.raises(LabelError, match="cell type 'a' has the unknown parent 'b'"):
        cell_types.__wrapped__()


# Spellings


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Neutrophil", "neutrophil"),
        ("neutrophils", "neutrophil"),
        ("NEU", "neutrophil"),
        ("Band Neutrophils", "band_neutrophil"),
        ("band-neutrophil", "band_neutrophil"),
        ("Segmented_Neutrophil", "segmented_neutrophil"),
        ("  monocyte ", "monocyte"),
        ("Variant  Lymphocytes", "variant_lymphocyte"),
        ("atypical lymphocyte", "variant_lymphocyte"),
        ("LYMPH", "lymphocyte"),
        ("MYO", "myeloblast"),
        ("MYB", "myelocyte"),
        ("BAS", "basophil"),
        ("eos", "eosinophil"),
        ("IG", "immature_granulocyte"),
        ("immature granulocytes", "immature_granulocyte"),
        ("NRBC", "erythroblast"),
        ("Nucleated red cells", "erythroblast"),
        ("Platelets", "platelet"),
        ("thrombocytes", "platelet"),
        ("WBC", "leukocyte"),
        ("basket cells", "smudge_cell"),
        ("PMN", "neutrophil"),
        ("pmns", "neutrophil"),
        ("stab cell", "band_neutrophil"),
        ("Stabkernige", "band_neutrophil"),
        ("Segs", "segmented_neutrophil"),
        ("segmentados", "segmented_neutrophil"),
        ("BandNeutrophil", "band_neutrophil"),
        ("Neutrophile", "neutrophil"),
        ("neutrófilos", "neutrophil"),
        ("éosinophile", "eosinophil"),
        ("EOSI", "eosinophil"),
        ("Lymp", "lymphocyte"),
        ("Lymphozyten", "lymphocyte"),
        ("Monozyten", "monocyte"),
        ("promonocytes", "promonocyte"),
        ("giant platelets", "giant_platelet"),
        ("platelet clumps", "platelet_clump"),
        ("Artifacts", "artefact"),
        ("ART", "artefact"),
        ("ABE", "abnormal_eosinophil"),
        ("BLA", "blast"),
        ("FGC", "faggot_cell"),
        ("HAC", "hairy_cell"),
        ("LYI", "immature_lymphocyte"),
        ("PEB", "proerythroblast"),
        ("PLM", "plasma_cell"),
        ("OTH", "other_cell"),
    ],
)
def test_spellings_of_users_find_the_type(text: str, code: str) -> None:
    assert find_cell_type(text) == code


@pytest.mark.parametrize("text", ["base", "monde", "Pro-B", "mixt", "N", "not a blast", "nonblast", "2024-03-01", "", "s"])
def test_other_words_find_no_type(text: str) -> None:
    assert cell_type_of(text) is None


def test_codes_of_the_bone_marrow_set_mean_in_a_user_s_folder_what_they_mean_there() -> None:
    for label, meaning in READERS["bone_marrow"].labels.items():
        if isinstance(meaning, Excluded):
            assert cell_type_of(label) in (None, "artefact")
        else:
            assert cell_type_of(label) == meaning, label


def test_no_unclear_label_is_a_spelling() -> None:
    assert [label for label in unclear_labels() if cell_type_of(label) is not None] == []


def test_every_code_name_and_alias_finds_its_type_in_any_case_and_with_a_plural_s() -> None:
    for code, cell_type in cell_types().items():
        for spelling in (code, cell_type.name, *cell_type.aliases):
            for text in (
                spelling,
                spelling.upper(),
                spelling.title(),
                spelling.replace("_", " "),
                spelling.replace("_", "-"),
            ):
                assert find_cell_type(text) == code, text
        assert find_cell_type(f"{code}s") == code


@pytest.mark.parametrize("labels", [MATEK19, ACEVEDO20], ids=["matek19", "acevedo20"])
def test_the_short_codes_of_both_large_sets_are_understood_in_users_folders(
    labels: dict[str, tuple[str, int | None]],
) -> None:
    for label, (code, _) in labels.items():
        assert find_cell_type(label) == code


@pytest.mark.parametrize(
    ("text", "near"), [("neutrofil", "'neutrophil'"), ("monocite", "'monocyte'"), ("lymfocyte", "'lymphocyte'")]
)
def test_unknown_spelling_names_near_ones_and_the_way_out(text: str, near: str) -> None:
    with pytest.raises(LabelError, match=rf"the label '{text}' is no known cell type") as error:
        find_cell_type(text)
    assert "did you mean" in str(error.value)
    assert near in str(error.value)
    assert str(error.value).endswith("To keep labels as they are: --labels as_labelled")


@given(text=st.text(max_size=20))
def test_any_text_finds_a_known_type_or_raises_a_one_line_label_error(text: str) -> None:
    try:
        found = find_cell_type(text)
    except LabelError as error:
        found = str(error)
    assert found in cell_types() or ("\n" not in found and "--labels as_labelled" in found)


def test_two_types_under_one_spelling_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = {code: taxonomy.CellType(code, code, aliases=("same",)) for code in ("one", "two")}
    monkeypatch.setattr(taxonomy, "cell_types", lambda: twice)
    with pytest.raises(LabelError, match="the spelling 'same'"):
        taxonomy._spellings.__wrapped__()


def test_tables_cannot_be_changed_by_accident() -> None:
    for table in (cell_types(), label_map("five_class").assignments):
        with pytest.raises(TypeError):
            table["monocyte"] = "x"  # type: ignore[index]
