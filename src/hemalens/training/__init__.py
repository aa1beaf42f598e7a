"""Training in torch: from images, a network and a config to a bundle.

Begin with `fit`, the path that all methods share. `module` is the Lightning module, `trainer` the loop; `checkpoints`
resumes without pickle, `processes` shares batches among devices. `augmentation` and `laboratory_augmentation` change
images, `imitated_laboratory` draws laboratories to test in, `losses` holds the losses, `masks` uses masks of the training
images, `mature_types` asks a network twice, `probe` fits a classical head on frozen embeddings. `autoencoder` trains
BC-SAM's, `baseline_autoencoders` those that it is compared with.
Imports `models` and the rooms below.
"""
