"""Bundles: a folder with an ONNX graph, a manifest and the statistics of the training data.

Begin with `bundle.open_bundle`; `artifact` is the manifest that bundles and segmenters share, `folders` writes and opens
the folder, `vouching` compares manifest and graph, `self_test` runs the graph's own test. `export` writes a bundle after
training. `stages` and `segmenter` cut the cell out before the graph, `nucleus_size` measures it, `reference`
computes the reference statistics, `default_model` finds the packaged bundle in `default/`.
Imports `graphs`, `datasets`, `imaging`, `trust` and the rooms below them; no torch.
"""
