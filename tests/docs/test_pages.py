"""The tables of the documentation say what the program knows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

import hemalens
from documentation import DOCS, PAGES, flat
from hemalens.benchmark.config import EFFICIENCY
from hemalens.benchmark.protocols import PROTOCOLS
from hemalens.cli.main import app
from hemalens.datasets import READERS
from hemalens.methods import METHODS, SEGMENTERS
from hemalens.studies import STUDIES, describe_study
from hemalens.taxonomy import AS_LABELLED, cell_types, label_map, label_map_names


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
    rows = _rows("data-formats.md")
    readers = {name.partition(":")[0]: row for name, row in rows.items() if ":" in name}
    assert readers == {name: [reader.title, flat(reader.layout), reader.licence] for name, reader in READERS.items()}
    for name in label_map_names():
        if name != AS_LABELLED:
            chosen = label_map(name)
            assert rows[name] == [chosen.description, ", ".join(chosen.classes)]
    assert AS_LABELLED in rows


def test_the_methods_page_names_every_method_and_protocol() -> None:
    rows, text = _rows("methods.md"), (DOCS / "methods.md").read_text(encoding="utf-8")
    assert set(METHODS) <= set(rows)
    assert all(f"`{name}`" in text for name in SEGMENTERS)
    assert {*PROTOCOLS, EFFICIENCY} <= set(rows)


@pytest.mark.parametrize("name", STUDIES)
def test_the_studies_page_quotes_each_study(name: str) -> None:
    told = describe_study(name)
    (row,) = [row for first, row in _rows("studies.md").items() if f"`{name}`" in first]
    assert row[:2] == [told.citation, told.main_result]
    assert all(role.published.title in row[2] and f"{role.name}:" in row[2] for role in told.roles)


def test_the_first_page_names_every_command() -> None:
    command = typer.main.get_command(app)
    assert {row.removeprefix("hemalens ") for row in _rows("index.md") if row.startswith("hemalens ")} == set(
        command.commands  # type: ignore[attr-defined]
    )


def test_the_reference_holds_every_public_name() -> None:
    named = re.findall(r"^::: ([\w.]+)$", (DOCS / "api.md").read_text(encoding="utf-8"), re.M)
    last = {name.rpartition(".")[2] for name in named}
    # the errors come by their module
    assert set(hemalens.__all__) - {"__version__", "HemalensError"} <= last
    assert "hemalens.errors" in named


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target
