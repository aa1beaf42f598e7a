"""The tables of the documentation agree with the program and with the data files of the results."""

from __future__ import annotations

import csv
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
import typer

import hemalens
from documentation import DOCS, PAGES, REPOSITORY, flat, name_of
from hemalens.adaptation.unlabelled_config import UnlabelledConfig
from hemalens.benchmark.config import EFFICIENCY
from hemalens.benchmark.protocols import PROTOCOLS
from hemalens.classifiers.few_shot import FewShotConfig
from hemalens.cli.main import app
from hemalens.config import StrictConfig
from hemalens.datasets import READERS
from hemalens.datasets.fields.readers import FIELD_READERS
from hemalens.datasets.synthetic.smear import SmearConfig
from hemalens.differential.rules import CountRules
from hemalens.methods import METHODS, SEGMENTERS, find_method
from hemalens.studies import STUDIES, describe_study
from hemalens.taxonomy import AS_LABELLED, cell_types, label_map, label_map_names

DATA = DOCS / "reference" / "results" / "data"
MOST_ROWS = 12
README_LINES = 180


def _rows(page: str) -> dict[str, list[str]]:
    """The rows of all tables of a page by their first cell, without its backticks."""
    rows = {}
    for line in (DOCS / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("| "):
            cells = [flat(cell) for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
            rows[cells[0].strip("`")] = cells[1:]
    return rows


def test_the_glossary_holds_every_cell_type() -> None:
    rows = _rows("glossary.md")
    rows.pop("code")
    rows.pop("---", None)
    expected = {
        kind.code: [
            kind.name,
            f"`{kind.parent}`" if kind.parent else "",
            kind.loinc or "",
            ", ".join(f"`{alias}`" for alias in kind.aliases),
        ]
        for kind in cell_types().values()
    }
    assert {code: row for code, row in rows.items() if not code.startswith("--")} == expected


def test_the_data_page_holds_every_reader_and_label_map() -> None:
    rows = _rows("reference/data-formats.md")
    readers = {name.partition(":")[0]: row for name, row in rows.items() if ":" in name}
    assert readers == {name: [reader.title, flat(reader.layout), reader.licence] for name, reader in READERS.items()}
    for name in label_map_names():
        if name != AS_LABELLED:
            chosen = label_map(name)
            assert rows[name] == [chosen.description, ", ".join(chosen.classes)]
    assert AS_LABELLED in rows


def test_the_fields_page_holds_every_reader_and_setting() -> None:
    rows = _rows("reference/fields.md")
    readers = {name.partition(":")[0]: row for name, row in rows.items() if ":PATH" in name}
    assert readers == {name: [reader.title, flat(reader.layout), reader.licence] for name, reader in FIELD_READERS.items()}
    named = {setting.strip("` ") for name in rows for setting in name.split(",")}
    assert set(SmearConfig.model_fields) - {"types"} <= named


def test_the_methods_page_names_every_method_and_protocol() -> None:
    rows, text = _rows("reference/methods.md"), (DOCS / "reference" / "methods.md").read_text(encoding="utf-8")
    assert set(METHODS) <= set(rows)
    assert all(f"`{name}`" in text for name in SEGMENTERS)
    assert {*PROTOCOLS, EFFICIENCY} <= set(rows)


@pytest.mark.parametrize("name", STUDIES)
def test_the_studies_page_quotes_each_study(name: str) -> None:
    study = describe_study(name)
    (row,) = [row for first, row in _rows("studies/index.md").items() if f"`{name}`" in first]
    assert row[:2] == [study.citation, study.main_result]
    assert all(role.published.title in row[2] and f"{role.name}:" in row[2] for role in study.roles)


def test_the_first_page_names_every_command() -> None:
    command = typer.main.get_command(app)
    assert {row.removeprefix("hemalens ") for row in _rows("index.md") if row.startswith("hemalens ")} == set(
        command.commands  # type: ignore[attr-defined]
    )


def test_the_reference_holds_every_public_name() -> None:
    named = re.findall(r"^::: ([\w.]+)$", (DOCS / "reference" / "api.md").read_text(encoding="utf-8"), re.M)
    last = {name.rpartition(".")[2] for name in named}
    # the errors come by their module
    assert set(hemalens.__all__) - {"__version__", "HemalensError"} <= last
    assert "hemalens.errors" in named


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_tables_are_short(page: Path) -> None:
    tables = re.findall(r"(?:^\|.*\n?)+", page.read_text(encoding="utf-8"), re.M)
    assert [table for table in tables if table.count("\n|") - 1 > MOST_ROWS] == []


def test_the_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES


@pytest.mark.parametrize("page", ["README.md", "docs/reference/results/next-laboratory.md"])
def test_scores_between_laboratories_are_in_the_data(page: str) -> None:
    known: set[str] = set()
    for name in ("next_laboratory.csv", "left_out.csv", "spread.csv"):
        with (DATA / name).open(encoding="utf-8", newline="") as file:
            known |= {value for row in csv.DictReader(file) for value in row.values()}
    text = (REPOSITORY / page).read_text(encoding="utf-8").partition("### Ablation of `robust`")[0]
    rows = "".join(re.findall(r"^\|.*\| 0\.\d{3} .*$", text, re.M))
    scores = re.findall(r"\b0\.\d{3}\b", rows)
    assert len(scores) > 10
    assert set(scores) - known == set()


ROBUST = find_method("robust").config


@pytest.mark.parametrize(
    ("heading", "config"),
    [
        ("## robust\n", ROBUST),
        ("### laboratory\n", type(ROBUST.model_fields["laboratory"].default)),
        ("With `--unlabelled`:", UnlabelledConfig),
        ("With `--support`", FewShotConfig),
    ],
)
def test_the_settings_page_agrees_with_the_settings(heading: str, config: type[StrictConfig]) -> None:
    text = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
    table = re.search(r"(?:^\|.*\n)+", text[text.index(heading) :], re.M)
    assert table is not None
    rows = [line.split(" | ") for line in table[0].splitlines() if line.startswith("| `")]
    assert len(rows) > 1
    for names, default, *_ in rows:
        keys = re.findall(r"`([\w.]+)`", names)
        assert {key.partition(".")[0] for key in keys} <= set(config.model_fields)
        if re.fullmatch(r"[\d., ]+", default):
            assert [config.model_fields[key].default for key in keys] == [float(part) for part in default.split(", ")]


def test_the_design_names_every_room_and_the_layers() -> None:
    text = (DOCS / "design.md").read_text(encoding="utf-8")
    rows = _rows("design.md")
    package = Path(hemalens.__file__).parent
    assert {path.parent.name for path in package.glob("*/__init__.py")} <= set(rows)
    assert all(f"`{path.stem}`" in text for path in package.glob("*.py") if path.stem != "__init__")
    contract = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = [layer.replace("hemalens.", "") for layer in contract["contracts"][0]["layers"]]
    assert "\n".join(layers) in text


def test_figures_show_the_data() -> None:
    spec = importlib.util.spec_from_file_location("make", DOCS / "images" / "make.py")
    assert spec is not None
    assert spec.loader is not None
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name, chart in make.CHARTS.items():
        shown = (DOCS / "images" / f"{name}.svg").read_text(encoding="utf-8")
        with make.mpl.rc_context(make.STYLE):
            figure = chart()
        texts = {text.get_text() for axis in figure.axes for text in (*axis.texts, axis.title)}
        assert {text for text in texts if f">{text}<" not in shown} == set(), name
        assert f"images/{name}.svg" in pages


@pytest.mark.parametrize("name", STUDIES)
def test_differences_in_a_studys_report_are_on_its_page(name: str) -> None:
    pages = " ".join(path.read_text(encoding="utf-8") for path in sorted((DOCS / "studies").glob("*.md")))
    words = " ".join(pages.replace("`", "").split())
    assert [text for text in describe_study(name).differences if text not in words] == []


def test_the_page_of_rules_names_every_key_and_default() -> None:
    text = (DOCS / "reference" / "count-rules.md").read_text(encoding="utf-8")
    rows = {row.split("`")[1].partition(".")[0]: row for row in text.splitlines() if row.startswith("| `")}
    rules = CountRules()
    assert set(rows) == set(CountRules.model_fields)
    for key in ("least_cells", "width", "tolerance", "nucleated_red_cells_from", "platelets_per_field"):
        assert rows[key].split(" | ")[1] == f"{getattr(rules, key):g}"
    prose = " ".join(text.split())
    for interval in rules.reference.values():
        assert f"{interval.low:g} to {interval.high:g}" in prose
