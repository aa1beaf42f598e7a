"""The two studies of white cells with few labels: `augmentation` (Kong, 2023) and `combined` (Mo, 2023)."""
