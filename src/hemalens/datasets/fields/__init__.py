"""Fields of view with boxes around their cells: one reader a format, one contract for all.

Begin with `base.FieldDataset`, then `open.open_fields`. Annotation formats name their classes in many words; `kinds` says
which kind of cell each means. Imports the modules of `datasets`, `imaging` and `taxonomy`.
"""
