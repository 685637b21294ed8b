"""Running ONNX graphs: providers, sessions, memory."""
