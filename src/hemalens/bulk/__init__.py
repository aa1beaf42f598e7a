"""Bulk: predict and count on Ray Data, in shards that a stopped run does not compute again.

Begin with `predict.predict_on_ray`, the verb. `listing` lists the images of a source, `image_list` keeps them in a file,
`folder` is the output and knows the finished shards, `shard` computes one, `pool` runs many on Ray.
Imports `runs`, `inference` and the rooms below; Ray itself only where `cluster` and `pool` run; no torch.
"""
