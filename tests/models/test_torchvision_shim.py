"""The operators that a torchvision for CUDA lacks beside a torch without it; each state in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import hemalens

WHOLE = """
import torch
torch.version.cuda = "12.8"
from hemalens.models import _torchvision
print(_torchvision._library is None, _torchvision.declare_operators())
"""

BROKEN = """
import torch
torch.version.cuda = None
import hemalens.models._torchvision as shim
if shim._library is None:
    # a whole torchvision for processors: pretend that its binary cannot be loaded
    if hasattr(torch.ops.torchvision, "nms"):
        print("whole")
        raise SystemExit
    shim._binary_loads = lambda: False
    assert shim.declare_operators()
for name in ("nms", "qnms"):
    assert hasattr(torch.ops.torchvision, name), name
assert shim.declare_operators() is False, "twice is once"
import torchvision
from torchvision.transforms import v2
image = torch.arange(48, dtype=torch.uint8).reshape(3, 4, 4)
assert torch.equal(v2.functional.horizontal_flip(image), image.flip(-1))
print("declared")
"""


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)


def test_nothing_is_done_beside_a_torch_with_cuda() -> None:
    done = _python(WHOLE)
    assert (done.returncode, done.stdout) == (0, "True False\n"), done.stderr


def test_torchvision_imports_beside_a_torch_without_cuda() -> None:
    done = _python(BROKEN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("declared", "whole")


def test_a_missing_torchvision_is_no_matter_of_the_shim(monkeypatch: pytest.MonkeyPatch) -> None:
    from hemalens.models import _torchvision

    monkeypatch.setattr(_torchvision.importlib.util, "find_spec", lambda name: None)
    assert _torchvision._binary_loads()


def test_every_module_that_imports_torchvision_s_users_imports_the_shim_first() -> None:
    """timm, lightning and torchvision die without it; direct imports at the top of a module are what this can see."""
    package = Path(hemalens.__file__).parent
    checked = 0
    for file in sorted(package.rglob("*.py")):
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        users = ("import timm", "import lightning", "from lightning", "from torchvision", "import torchvision")
        first_use = next((i for i, line in enumerate(lines) if line.startswith(users)), None)
        if first_use is None or file.name == "_torchvision.py":
            continue
        checked += 1
        shim = next((i for i, line in enumerate(lines) if line.startswith("import hemalens.models._torchvision")), None)
        assert shim is not None, file
        assert shim < first_use, file
    assert checked >= 3
