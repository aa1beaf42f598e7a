"""hemalens: classification of single blood-cell images across laboratories."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hemalens.adaptation.adapt import adapt
    from hemalens.adaptation.options import AdaptOptions
    from hemalens.adaptation.suggest import SuggestOptions, suggest
    from hemalens.benchmark.config import BenchmarkConfig
    from hemalens.benchmark.run import benchmark
    from hemalens.bundle.bundle import Bundle, open_bundle
    from hemalens.bundle.default_model import default_model_path
    from hemalens.datasets import CellDataset, Record, open_dataset
    from hemalens.errors import HemalensError
    from hemalens.imaging.segmentation import CellImageConfig
    from hemalens.inference.predict import predict
    from hemalens.inference.predictor import Prediction, Predictor
    from hemalens.runs.count import count
    from hemalens.runs.counting.options import CountOptions
    from hemalens.runs.evaluate import EvaluateOptions, evaluate
    from hemalens.runs.quantize import QuantizeOptions, quantize
    from hemalens.runs.segment import segment
    from hemalens.runs.train import TrainOptions, train
    from hemalens.studies import run_study

__version__ = "0.1.0"

# Nothing leaves the machine: the documented switches of what would report home, before any of it is imported. Processes
# that this one starts inherit them.
os.environ.update(
    ORT_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    DO_NOT_TRACK="1",
    RAY_USAGE_STATS_ENABLED="0",
)

_PLACES = {
    "AdaptOptions": "hemalens.adaptation.options",
    "BenchmarkConfig": "hemalens.benchmark.config",
    "Bundle": "hemalens.bundle.bundle",
    "CellDataset": "hemalens.datasets",
    "CellImageConfig": "hemalens.imaging.segmentation",
    "CountOptions": "hemalens.runs.counting.options",
    "EvaluateOptions": "hemalens.runs.evaluate",
    "HemalensError": "hemalens.errors",
    "Prediction": "hemalens.inference.predictor",
    "Predictor": "hemalens.inference.predictor",
    "QuantizeOptions": "hemalens.runs.quantize",
    "Record": "hemalens.datasets",
    "SuggestOptions": "hemalens.adaptation.suggest",
    "TrainOptions": "hemalens.runs.train",
    "adapt": "hemalens.adaptation.adapt",
    "benchmark": "hemalens.benchmark.run",
    "count": "hemalens.runs.count",
    "default_model_path": "hemalens.bundle.default_model",
    "evaluate": "hemalens.runs.evaluate",
    "open_bundle": "hemalens.bundle.bundle",
    "open_dataset": "hemalens.datasets",
    "predict": "hemalens.inference.predict",
    "quantize": "hemalens.runs.quantize",
    "run_study": "hemalens.studies",
    "segment": "hemalens.runs.segment",
    "suggest": "hemalens.adaptation.suggest",
    "train": "hemalens.runs.train",
}

__all__ = [
    "AdaptOptions",
    "BenchmarkConfig",
    "Bundle",
    "CellDataset",
    "CellImageConfig",
    "CountOptions",
    "EvaluateOptions",
    "HemalensError",
    "Prediction",
    "Predictor",
    "QuantizeOptions",
    "Record",
    "SuggestOptions",
    "TrainOptions",
    "__version__",
    "adapt",
    "benchmark",
    "count",
    "default_model_path",
    "evaluate",
    "open_bundle",
    "open_dataset",
    "predict",
    "quantize",
    "run_study",
    "segment",
    "suggest",
    "train",
]


def __getattr__(name: str) -> Any:
    """Load public names on first use, so that `import hemalens` is fast."""
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, which notebooks complete though none is loaded yet."""
    return sorted({*globals(), *__all__})
