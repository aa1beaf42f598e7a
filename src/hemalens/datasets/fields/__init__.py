"""Fields of view with boxes around their cells: one reader a format, one contract for all.

Begin with `base.FieldDataset`, then `open.open_fields`. `readers` has one file a set or format, `FIELD_READERS` is their
table. `kinds` maps class names to kinds of cells, `reader` cleans boxes and counts what is left out, `matching` pairs
images with annotations. Imports the modules of `datasets`, `imaging` and `taxonomy`.
"""
