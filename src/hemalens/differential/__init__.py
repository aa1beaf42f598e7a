"""The differential count: shares of the cell types with their limits, comparisons of two counts, partly reviewed counts.

Begin with `slides.slide_result`, the count of a slide, and `rules.CountRules`, the laboratory's settings. `count` holds
what enters the hundred, `limits` exact limits, `compare` two counts, `reviewed` counts of which a part was reviewed,
`confusion` the correction for a model's known errors. Formulas follow CLSI H20-A2 and ICSH where they exist.
Imports `evaluation`, `taxonomy` and the rooms below; no torch.
"""
