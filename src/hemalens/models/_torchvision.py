"""Make torchvision importable beside a torch without CUDA; import this before torchvision, timm or lightning.

The published torchvision wheel is a CUDA build. Beside a CPU-only torch its binary cannot load, the operators `nms`
and `qnms` stay undeclared, and `import torchvision` dies when it registers their fake kernels. Declaring their
schemas first is enough: nothing here ever calls them. Where torchvision is whole, nothing is done.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

_library: torch.library.Library | None = None


def _binary_loads() -> bool:
    """Whether torchvision's operator library can be loaded; loading it twice does no harm."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True
    for binary in Path(spec.origin).parent.glob("_C.*"):
        try:
            torch.ops.load_library(str(binary))  # type: ignore[no-untyped-call]
        except OSError:
            return False
    return True


def declare_operators() -> bool:
    """Declare the missing operator schemas; True when that was needed."""
    global _library
    if torch.version.cuda is not None or _library is not None or _binary_loads():
        return False
    _library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in SCHEMAS:
        if not hasattr(torch.ops.torchvision, schema.partition("(")[0]):
            _library.define(schema)  # type: ignore[no-untyped-call]
    return True


declare_operators()
