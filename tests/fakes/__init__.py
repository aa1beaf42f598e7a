"""Fake data in the real layouts: one module a dataset, found by its name.

`write(root, n_per_class=3, seed=0)` of the module `<name>` writes the layout of the reader `<name>` into a new or empty
folder and returns the name to give to `open_dataset`. A module of several readers has `write_<name>` for each.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules

__all__ = ["FAKES"]

Fake = Callable[..., str]


def _found() -> dict[str, Fake]:
    fakes: dict[str, Fake] = {}
    for module in iter_modules(__path__):
        for name, value in vars(import_module(f"{__name__}.{module.name}")).items():
            if name == "write":
                fakes[module.name] = value
            elif name.startswith("write_"):
                fakes[name.removeprefix("write_")] = value
    return fakes


FAKES = _found()
