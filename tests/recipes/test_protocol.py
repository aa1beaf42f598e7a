"""The recipe for a new protocol, in three places: its module, a line in `PROTOCOLS`, and a field of its settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field

import trained
from hemalens.benchmark.config import BenchmarkConfig
from hemalens.benchmark.protocols import PROTOCOLS
from hemalens.benchmark.protocols.base import FitFold, Outcome, SourceProtocol, Task, relative_path
from hemalens.benchmark.protocols.data import BenchmarkData
from hemalens.benchmark.protocols.folds import fit_whole
from hemalens.benchmark.run import benchmark
from hemalens.datasets.leaks import refuse_leaks
from hemalens.errors import ConfigError, InputError
from hemalens.evaluation.evaluate import evaluate
from hemalens.runs.inputs import Inputs

# ------------------------------------------------------------------------------------- first place: the protocol's module


class WholeProtocol(SourceProtocol):
    """One model of the whole source, tested on every target."""

    needs_target: ClassVar[bool] = True
    takes_target: ClassVar[bool] = True

    validation_fraction: float = Field(default=0.2, gt=0, lt=1)

    def open(self, name: str, source: Inputs, targets: Sequence[str], data: BenchmarkData) -> Task:
        """The task of a source."""
        opened = data.targets(targets, min_per_class=data.min_per_class)
        return WholeTask(
            protocol=name,
            description=f"one model, {self.validation_fraction:.0%} of the source for validation",
            source=source,
            seed=data.seed,
            tested=tuple(target.dataset for target in opened),
            cards=tuple(target.card for target in opened),
            validation_fraction=self.validation_fraction,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeTask(Task):
    """One model, a test for each target."""

    validation_fraction: float

    def check(self) -> None:
        """Refuse targets with images of the source."""
        for target in self.tested:
            refuse_leaks(set(self.source.dataset.contents), target)

    def request(self, i: int) -> dict[str, Any]:
        """The target, and how the source is split."""
        return {"target": self.tested[i].fingerprint, "validation_fraction": self.validation_fraction}

    def run(self, i: int, fit: FitFold, run_dir: Path) -> Outcome:
        """The model on target `i`."""
        source, target = self.source.dataset, self.tested[i]
        bundle = fit_whole(
            fit, source, seed=self.seed, run_dir=run_dir / "model", validation_fraction=self.validation_fraction
        )
        found = evaluate([bundle], [target], target=target, source_name=source.name, seed=self.seed)
        return Outcome(evaluations=(found,), model=relative_path(bundle, run_dir))


# --------------------------------------------------------------------------------- third place: a field for its settings


class ExtendedConfig(BenchmarkConfig):
    """The configuration with a field of the protocol's name."""

    whole: WholeProtocol = WholeProtocol()


@pytest.fixture(autouse=True)
def _listed(monkeypatch: pytest.MonkeyPatch) -> None:
    # second place: a line in the table
    monkeypatch.setitem(PROTOCOLS, "whole", WholeProtocol)


@pytest.mark.usefixtures("undrawn")
def test_a_protocol_of_three_places_runs(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[tuple[int, int]] = []
    stub = trained.stub_method(lambda train, held, run_dir: fits.append((len(train), len(held))))
    monkeypatch.setattr("hemalens.benchmark.config.find_method", lambda name: stub)
    cells = trained.cells(tmp_path_factory)
    values = {
        "methods": ("stub",),
        "sources": f"synthetic:{cells / 'lab_a'}",
        "targets": f"synthetic:{cells / 'lab_b'}",
        "protocols": "whole",
        "whole": {"validation_fraction": 0.5},
    }
    config = ExtendedConfig.from_mapping(values)
    report = benchmark(config, out=tmp_path / "run")
    (evaluation,) = report.evaluations
    assert (evaluation.source, evaluation.target, report.failures) == ("lab_a", "lab_b", ())
    assert evaluation.n_images == len(trained.laboratory(tmp_path_factory, "lab_b"))
    assert report.protocol == "whole, one model, 50% of the source for validation"
    ((n_train, n_held),) = fits
    assert abs(n_train - n_held) <= len(evaluation.classes)
    fits.clear()
    assert benchmark(config, out=tmp_path / "run").evaluations == report.evaluations
    assert fits == [], "the trial is cached"


def test_its_settings_and_targets_are_checked() -> None:
    values: dict[str, Any] = {"methods": ("linear_probe",), "sources": "synthetic:a", "protocols": "whole"}
    with pytest.raises(InputError, match="whole needs a target"):
        ExtendedConfig.from_mapping(values).check()
    with pytest.raises(ConfigError, match=r"unknown key 'whole\.validation'"):
        ExtendedConfig.from_mapping({**values, "whole": {"validation": 0.1}})
    unused = {**values, "targets": "synthetic:b", "protocols": "cross-domain", "whole": {"validation_fraction": 0.5}}
    with pytest.raises(InputError, match="without the protocol whole"):
        ExtendedConfig.from_mapping(unused).check()


def test_a_protocol_without_settings_needs_no_field(monkeypatch: pytest.MonkeyPatch) -> None:
    config = BenchmarkConfig.from_mapping({"methods": ("linear_probe",), "sources": "synthetic:a", "protocols": "whole"})
    assert config.protocol("whole") == WholeProtocol()
