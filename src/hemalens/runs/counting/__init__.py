"""What `hemalens count` is made of: slides, the cells of a field, what is counted once, tables, pictures, the report.

Begin with `hemalens.runs.count`. `options` holds the settings, `slides` finds fields and counts of the analyser, `find` finds
and classifies the cells of a field, `copies` copies and overlaps of fields, `decide` what counts, `rows` the tables,
`pictures` crops and overlays, `exhibits` the report.
"""
