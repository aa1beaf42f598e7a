"""Bundles: a folder with an ONNX graph, a manifest and the statistics of the training data.

Begin with `bundle.open_bundle`; `artifact` is the folder with digests that bundles and segmenters share, `export` writes
one after training. `stages` and `segmenter` cut the cell out before the graph, `nucleus_size` measures it, `reference`
computes the reference statistics, `default_model` finds the packaged bundle in `default/`.
Imports `graphs`, `datasets`, `imaging`, `trust` and the rooms below them; no torch.
"""
