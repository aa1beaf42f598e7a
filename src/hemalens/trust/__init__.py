"""Trust without labels: is this image, or this laboratory, like the training data?

Begin with `monitor`. `reference` holds the reference statistics of the training data, `conformal` prediction sets and
p-values, `domain_shift` the test for a shift, `accuracy_estimates` the accuracy to expect.
Pure functions over embeddings and logits: imports `errors` alone; no torch.
"""
