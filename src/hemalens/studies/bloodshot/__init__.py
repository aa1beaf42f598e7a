"""The study of BloodShot: metric learning and k-shot classification. Begin with `run`."""
