"""Find white cells, red cells and platelets, and the nucleus of each white cell, with the detector's graph.

Begin with `finder.CellFinder`: `in_field` gives the boxes of a field, `nucleus_of` the nucleus of a single-cell image.
`decode` turns the graph's maps into boxes, `network_input` an image into the graph's input.
Imports `graphs`, `imaging` and the rooms below; no torch.
"""
