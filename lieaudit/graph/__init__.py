"""The ONNX graph: reading, normalising, differentiating."""
