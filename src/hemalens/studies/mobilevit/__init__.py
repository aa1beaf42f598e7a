"""The study of MobileViT on bone-marrow cells, and of four convolutional networks. Begin with `run`."""
