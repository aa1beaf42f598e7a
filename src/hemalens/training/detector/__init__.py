"""Train the detector: windows of fields in other stains and scales, targets at a quarter of their size, losses."""
