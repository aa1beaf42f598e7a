"""The differential count: shares of the cell types with their limits, comparisons of two counts, partly reviewed counts.

Begin with `count.Differential`, the count of a slide, and `count.CountRules`, the laboratory's settings. `limits` holds
exact limits and how many cells to count, `compare` two counts of a slide, `reviewed` counts of which a part was reviewed,
`confusion` the correction for a model's known errors. Formulas follow CLSI H20-A2 and ICSH where they exist.
Imports `evaluation`, `taxonomy` and the rooms below; no torch.
"""
