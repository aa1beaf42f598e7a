"""The command line: typer commands that parse, call one public function and print.

Begin with `main`; one file a command. `options` holds the options that several commands share, `report_tables` and
`trial_table` print results. `quickstart` walks from synthetic cells to an adapted bundle.
Imports every room; nothing imports it.
"""
