"""Runs: the verbs that write a folder with a report, and what those folders share.

Begin with `train.train` or `evaluate.evaluate`; `segment`, `quantize` and `imitate` are verbs too. `inputs` opens the
data of a verb, `auxiliary` its auxiliary data, `folders` starts and resumes a run, `package_model` writes the default
model into the package.
Imports `methods`, `report` and the rooms below; torch only through methods.
"""
