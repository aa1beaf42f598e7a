"""The documentation site: it builds without a warning, and a browser needs no other host for it."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import hemalens
from documentation import DOCS, REPOSITORY

NEEDED = ("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers.python")
LOADING = {"stylesheet", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload", "icon", "manifest"}
"""Relations of a link element that make a browser fetch something."""


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    missing = [name for name in NEEDED if not _is_installed(name)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; pip install -e '.[docs]' -c constraints.txt")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class _Fetched(HTMLParser):
    """What a browser fetches for a page, and the identifiers in it."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.identifiers: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.identifiers.add(values.get("id", ""))
        self.addresses += [values[name] for name in ("src", "srcset", "poster", "data") if name in values]
        if tag == "link" and LOADING & set(values.get("rel", "").split()):
            self.addresses.append(values.get("href", ""))


def _read(page: Path) -> _Fetched:
    found = _Fetched()
    found.feed(page.read_text(encoding="utf-8"))
    return found


def test_every_page_is_there(site: Path) -> None:
    pages = {page.relative_to(DOCS).with_suffix(".html") for page in DOCS.rglob("*.md")}
    assert pages <= {page.relative_to(site) for page in site.rglob("*.html")}
    assert not list(site.rglob("*.py"))


def test_nothing_is_fetched_from_other_hosts(site: Path) -> None:
    remote = re.compile(r"\s*(?:https?:)?//", re.I)
    for page in site.rglob("*.html"):
        assert [address for address in _read(page).addresses if remote.match(address)] == [], page.name
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        addresses = re.findall(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)", text)
        assert [a or b for a, b in addresses if remote.match(a or b)] == [], sheet.name


def test_the_reference_has_a_place_for_every_public_name(site: Path) -> None:
    identifiers = _read(site / "reference" / "api.html").identifiers
    names = {identifier.rpartition(".")[2] for identifier in identifiers if "." in identifier}
    assert set(hemalens.__all__) - {"__version__"} <= names
