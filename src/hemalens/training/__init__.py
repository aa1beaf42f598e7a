"""Training: the Lightning module and trainer, checkpoints without pickle, and the way into a bundle."""
