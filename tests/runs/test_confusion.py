"""The confusion that a report holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_fakes import make_report

from hemalens.errors import HemalensError
from hemalens.report import write_report
from hemalens.runs.confusion import read_confusion


@pytest.fixture
def report(tmp_path: Path) -> Path:
    write_report(make_report(n_evaluations=1, n_points=5), tmp_path)
    return tmp_path


def test_the_matrix_of_a_report(report: Path) -> None:
    expected = make_report(n_evaluations=1, n_points=5).evaluations[0]
    for found in (read_confusion(report), read_confusion(report / "report.json"), read_confusion(report, expected.name)):
        assert (found.classes, found.tested, found.counts) == (
            expected.classes,
            expected.tested_classes,
            expected.confusion,
        )
        assert expected.target in found.source


def test_reports_that_do_not_fit(report: Path, tmp_path: Path) -> None:
    with pytest.raises(HemalensError, match="has no test 'other'"):
        read_confusion(report, "other")
    with pytest.raises(HemalensError, match="cannot read the report"):
        read_confusion(tmp_path / "none")
    two = tmp_path / "two"
    two.mkdir()
    write_report(make_report(n_evaluations=2, n_points=5), two)
    with pytest.raises(HemalensError, match="has 2 tests"):
        read_confusion(two)
    none = tmp_path / "no test"
    none.mkdir()
    write_report(make_report(n_evaluations=0, n_points=5), none)
    with pytest.raises(HemalensError, match="has no test"):
        read_confusion(none)
