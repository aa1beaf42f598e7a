"""The tables of the options of `hemalens benchmark`: defaults, keys and panels of the help."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from command import Command
from hemalens.benchmark.config import EFFICIENCY, BenchmarkConfig, settings_key
from hemalens.benchmark.efficiency.config import NetworksConfig
from hemalens.benchmark.protocols import PROTOCOLS
from hemalens.benchmark.protocols.laboratory import LaboratoryProtocol
from hemalens.cli.benchmark_options import (
    BUNDLE_PROTOCOLS,
    CONFIG_OPTIONS,
    DEFAULTS,
    EFFICIENCY_OPTIONS,
    MAIN,
    long_name,
    protocols_using,
)
from hemalens.cli.main import app
from hemalens.cli.options import ADVANCED

CONFIG = BenchmarkConfig.from_mapping({"methods": ("linear_probe",), "sources": "synthetic:a"})


def _parameters() -> dict[str, Any]:
    command = typer.main.get_command(app).commands["benchmark"]  # type: ignore[attr-defined]
    return {long_name(parameter): parameter for parameter in command.params}


def _value(path: tuple[str, ...]) -> Any:
    value: Any = CONFIG
    for key in path:
        value = getattr(value, key)
    return value


@pytest.mark.parametrize("option", [o for o in DEFAULTS if o not in ("--threads", "--classes")])
def test_the_help_shows_the_defaults_of_the_configuration(option: str) -> None:
    value = _value(CONFIG_OPTIONS[option][0])
    shown = ",".join(f"{each:g}" for each in value) if isinstance(value, tuple) else str(value)
    assert shown == DEFAULTS[option]
    assert _parameters()[option].show_default == DEFAULTS[option]
    assert _parameters()[option].default is None


def test_the_other_defaults() -> None:
    assert DEFAULTS["--classes"] == str(NetworksConfig().classes)
    assert (DEFAULTS["--threads"], NetworksConfig().threads) == ("all cores", None)
    for option in ("--labels", "--min-per-class", "--seed"):
        assert _parameters()[option].default == _value(CONFIG_OPTIONS[option][0])


def test_every_option_has_a_key() -> None:
    assert set(CONFIG_OPTIONS) <= set(_parameters())
    for path, _ in CONFIG_OPTIONS.values():
        if path[0] not in ("methods", "sources", "targets"):
            _value(path)
    assert {key for key in EFFICIENCY_OPTIONS.values() if key} | {"target"} == set(NetworksConfig.model_fields)
    laboratory = {name for name, kind in PROTOCOLS.items() if issubclass(kind, LaboratoryProtocol)}
    assert set(BUNDLE_PROTOCOLS) == laboratory


def test_the_help_groups_options_by_protocol() -> None:
    panels = {name: parameter.rich_help_panel for name, parameter in _parameters().items()}
    assert [name for name, panel in panels.items() if panel is None] == list(MAIN)
    known = {*PROTOCOLS, EFFICIENCY}
    for name, panel in panels.items():
        users = protocols_using(name)
        assert set(users) <= known
        if name not in MAIN:
            assert panel == ADVANCED if not users else any(user in panel for user in users)
    for name in ("k-shot", "finetuning", "labelling", "unlabelled", "fractions", EFFICIENCY):
        assert name in panels.values()
        assert settings_key(name) in BenchmarkConfig.model_fields


def test_the_help_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ended = Command(monkeypatch, capsys)("benchmark", "--help")
    assert ended.code == 0
    assert ended.out.index("--protocol") < ended.out.index("k-shot ─") < ended.out.index(ADVANCED)
