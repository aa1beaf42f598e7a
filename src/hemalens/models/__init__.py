"""Networks: timm backbones with stated weights, and their way into an ONNX graph."""
