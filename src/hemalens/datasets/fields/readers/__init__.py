"""Readers of fields with boxes, one file a format; `FIELD_READERS` in `fields.open` is the table."""
