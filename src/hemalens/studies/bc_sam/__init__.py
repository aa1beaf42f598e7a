"""The study of BC-SAM: SAM features, cross-domain autoencoder, classical classifiers. Begin with `run`."""
