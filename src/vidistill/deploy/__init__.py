"""What leaves the house: export to ONNX, int8, cost measurements and prediction from one file."""
