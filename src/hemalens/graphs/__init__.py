"""ONNX graphs: how they are built, read, measured, compressed and run.

Begin with `build` (parts of a graph and cuts) and `runtime` (ONNX Runtime over many images). `features` computes
embeddings through the cache, `weights` reads weights back, `cost` counts multiply-adds, `fp16` and `int8` make graphs
smaller. `checks` compares inputs and outputs. `additions` removes the layers that adaptation adds. `linear_part` finds the
linear outputs of pooled feature maps, `activation` their maps.
Imports `datasets`, `imaging`, `cache` and the rooms below; no torch.
"""
