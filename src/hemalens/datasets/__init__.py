"""Datasets: readers of published layouts, splits, episodes, audits; records with labels under a label map.

Begin with `open_dataset("acevedo20:PATH")`. `readers/` has one file a dataset, and `READERS` is their table. `splits` makes
folds, fractions and held-out parts, `episodes` few-shot supports, `leaks` refuses test images that were trained on,
`audit` finds copies, `mixes` draws mixes of cell types, `synthetic/` draws cells of imitated laboratories.
Imports `taxonomy`, `imaging` and the rooms below; no torch.
"""

from hemalens.datasets.base import CellDataset, Reader, Record
from hemalens.datasets.open import Keep, open_dataset, together
from hemalens.datasets.readers import READERS

__all__ = ["READERS", "CellDataset", "Keep", "Reader", "Record", "open_dataset", "together"]
