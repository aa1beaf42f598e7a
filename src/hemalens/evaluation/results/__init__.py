"""The schema of `report.json`: every number of a report, with its interval, as plain data."""

from hemalens.evaluation.results.base import Estimate
from hemalens.evaluation.results.comparisons import Comparison
from hemalens.evaluation.results.costs import Efficiency, Timing
from hemalens.evaluation.results.curves import Against, FractionCurve, FractionScores, KShot, Selection, Shots, Supervised
from hemalens.evaluation.results.evaluations import (
    ClassScores,
    Evaluation,
    ImageAnswers,
    NamedScatter,
    ReliabilityBin,
    Scatter,
    ScatterPoint,
    Scores,
    WrongCell,
)
from hemalens.evaluation.results.exhibits import ComparisonTable, Picture, PictureTable
from hemalens.evaluation.results.report import DataCard, Failure, MethodCard, Report
from hemalens.evaluation.results.slides import CellsNeeded, CountedBeside, CountedType, ReferenceInterval, SlideResult
from hemalens.evaluation.results.training_curves import TrainingCurve
from hemalens.evaluation.results.trust import AccuracyEstimate, TrustCheck

__all__ = [
    "AccuracyEstimate",
    "Against",
    "CellsNeeded",
    "ClassScores",
    "Comparison",
    "ComparisonTable",
    "CountedBeside",
    "CountedType",
    "DataCard",
    "Efficiency",
    "Estimate",
    "Evaluation",
    "Failure",
    "FractionCurve",
    "FractionScores",
    "ImageAnswers",
    "KShot",
    "MethodCard",
    "NamedScatter",
    "Picture",
    "PictureTable",
    "ReferenceInterval",
    "ReliabilityBin",
    "Report",
    "Scatter",
    "ScatterPoint",
    "Scores",
    "Selection",
    "Shots",
    "SlideResult",
    "Supervised",
    "Timing",
    "TrainingCurve",
    "TrustCheck",
    "WrongCell",
]
