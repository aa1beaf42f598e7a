"""Protocols: how a source and its targets are split, and what is scored.

One file a protocol, `k_shot`, `fractions`, `labelling` and `folds` as pure functions over embeddings and splits;
`finetuning`, `unlabelled`, `labelling_curve`, `fraction_parts` open the data and the bundles for them.
`targets` holds what the protocols on a new laboratory share.
"""
