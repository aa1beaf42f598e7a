"""Compares methods under protocols: methods x protocols x sources x targets, one report.

Begin with `run.benchmark`. `config` says what is asked, `plan` opens the data, `tasks` holds one source under one
protocol, `trials` one method in one test of a task (kept as it ends, so that a run resumes), `workers` the processes.
`protocols/` has one file a protocol, `efficiency/` what networks cost, `figures` what the report shows besides scores.
Imports `adaptation`, `runs` and the rooms below.
"""
