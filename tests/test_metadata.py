"""The version stands in three files; it is one."""

from __future__ import annotations

import tomllib
from pathlib import Path

import yaml

import hemalens

REPOSITORY = Path(__file__).resolve().parents[1]


def test_the_version_is_the_same_in_package_project_and_citation() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert project["version"] == citation["version"] == hemalens.__version__
    assert project["license"] == citation["license"]


def test_issue_forms_have_what_github_requires() -> None:
    forms = [path for path in (REPOSITORY / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"]
    assert len(forms) == 3
    for path in forms:
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= form.keys()
        ids = [part["id"] for part in form["body"] if part["type"] != "markdown"]
        assert len(set(ids)) == len(ids) > 0
        assert all(part["attributes"].get("label") or part["type"] == "markdown" for part in form["body"])
