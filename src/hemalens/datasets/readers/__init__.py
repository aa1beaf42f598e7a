"""Readers: one published dataset a file, from its folder layout to records; `READERS` is their table.

Each module holds everything about its set: the layout, what each label means, licence, citation, size and downloads.
"""

from hemalens.datasets import synthetic
from hemalens.datasets.base import Reader
from hemalens.datasets.readers import (
    acevedo20,
    bccd,
    bloodmnist,
    bone_marrow,
    cam16,
    cnmc,
    csv_table,
    cut_outs,
    folder,
    ldwbc,
    matek19,
    prcc,
    raabin,
    raabin_masks,
    wbc_subsets,
    zheng2018,
)

__all__ = ["READERS"]

READERS: dict[str, Reader] = {
    "acevedo20": acevedo20.READER,
    "matek19": matek19.READER,
    "matek19_reannotated": matek19.REANNOTATED,
    "bone_marrow": bone_marrow.READER,
    "cnmc": cnmc.READER,
    "jtsc": zheng2018.JTSC,
    "cellavision100": zheng2018.CELLAVISION100,
    "bccd": bccd.CROPS,
    "bccd_fields": bccd.FIELDS,
    "wbc_subsets": wbc_subsets.READER,
    "cam16": cam16.READER,
    "prcc": prcc.READER,
    "raabin": raabin.READER,
    "raabin_masks": raabin_masks.READER,
    "ldwbc": ldwbc.READER,
    "bloodmnist": bloodmnist.READER,
    "folder": folder.READER,
    "csv": csv_table.READER,
    "cut_outs": cut_outs.READER,
    "synthetic": synthetic.READER,
}
