"""The network as an ONNX file, checked against PyTorch. Needs the extra `export`."""
