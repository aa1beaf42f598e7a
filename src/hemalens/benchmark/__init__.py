"""Benchmark: methods x protocols x sources x targets, in one report.

Begin with `run.benchmark`. `config` holds the settings, `plan` opens the data and plans the trials. A trial (`trials`) is
one method in one test of a task; its result is kept, so that a run resumes. `workers` runs trials in several processes.
`protocols/` has one module a protocol, `efficiency/` measures the cost of networks, `figures` makes the report's pictures.
`saved_bundle` runs protocols on one saved bundle, without training.
Imports `adaptation`, `runs` and the rooms below.
"""
