"""Networks in torch: timm backbones, SAM with LoRA, autoencoders, and their export to ONNX.

Begin with `backbone`; `sam` and `lora` are the segmenter's. `freezing` chooses the layers that learn,
`test_time_augmentation` averages views, `white_balance` divides by the background, `export` traces a module into a graph.
`outline` is the network of the nucleus' outline, `ae_cfe` and `dorl` are those that BC-SAM is compared with, `cost` counts
parameters and multiply-adds.
Imports `evaluation` and the rooms below.
"""
