"""The schema of `report.json`: every number of a report, with its interval, as plain data."""

from hemalens.evaluation.results.base import Estimate
from hemalens.evaluation.results.comparisons import Comparison
from hemalens.evaluation.results.costs import Efficiency, Timing
from hemalens.evaluation.results.curves import Against, FractionCurve, FractionScores, KShot, Selection, Shots, Supervised
from hemalens.evaluation.results.detection import (
    WORST_COLUMNS,
    CountAgreement,
    CurvePoint,
    Detection,
    KindScores,
    SizeRecall,
)
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
from hemalens.evaluation.results.left_out import (
    FormAnswers,
    FormScores,
    ImitatedScores,
    ImitatedTest,
    LaboratoryScores,
    LeftOut,
    LeftOutTest,
    Worst,
)
from hemalens.evaluation.results.report import DataCard, Failure, MethodCard, Report
from hemalens.evaluation.results.review import ReasonCount, ReviewCheck, TypeCount
from hemalens.evaluation.results.slides import (
    CellsNeeded,
    CountComparison,
    CountedBeside,
    CountedType,
    ReferenceInterval,
    SlideResult,
    TypeDifference,
)
from hemalens.evaluation.results.training_curves import TrainingCurve
from hemalens.evaluation.results.trust import AccuracyEstimate, TrustCheck

__all__ = [
    "WORST_COLUMNS",
    "AccuracyEstimate",
    "Against",
    "CellsNeeded",
    "ClassScores",
    "Comparison",
    "ComparisonTable",
    "CountAgreement",
    "CountComparison",
    "CountedBeside",
    "CountedType",
    "CurvePoint",
    "DataCard",
    "Detection",
    "Efficiency",
    "Estimate",
    "Evaluation",
    "Failure",
    "FormAnswers",
    "FormScores",
    "FractionCurve",
    "FractionScores",
    "ImageAnswers",
    "ImitatedScores",
    "ImitatedTest",
    "KShot",
    "KindScores",
    "LaboratoryScores",
    "LeftOut",
    "LeftOutTest",
    "MethodCard",
    "NamedScatter",
    "Picture",
    "PictureTable",
    "ReasonCount",
    "ReferenceInterval",
    "ReliabilityBin",
    "Report",
    "ReviewCheck",
    "Scatter",
    "ScatterPoint",
    "Scores",
    "Selection",
    "Shots",
    "SizeRecall",
    "SlideResult",
    "Supervised",
    "Timing",
    "TrainingCurve",
    "TrustCheck",
    "TypeCount",
    "TypeDifference",
    "Worst",
    "WrongCell",
]
