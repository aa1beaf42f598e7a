"""Readers: one published dataset a file, from its folder layout to records.

Each module has a `READER` whose `read(root)` lists records and refuses another layout; the table of readers is
`hemalens.datasets.READERS`.
"""
