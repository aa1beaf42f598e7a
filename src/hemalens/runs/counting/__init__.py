"""What `hemalens count` is made of: slides, the cells of a field, what is counted once, tables, pictures, the report.

Begin with `hemalens.runs.count`. `options` holds the settings, `slides` fields and counts of the analyser, `find` finds and
classifies the cells of a field, `decide` says what counts, `copies` finds copies and overlaps of fields, `results` makes
the counts and the report, `rows` the tables, `pictures` crops and overlays, `exhibits` what the report shows of them.
"""
