"""Runs: the verbs that write a folder with a report, and what those folders share.

Begin with `train.train` or `evaluate.evaluate`; `segment` and `quantize` are verbs too. `inputs` opens the data of a verb,
`auxiliary` its further data, `folders` claims a run's folder and resumes it, `package_model` puts the default model into
the package.
Imports `methods`, `report` and the rooms below; torch only through the method that is asked for.
"""
