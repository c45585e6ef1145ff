"""Networks to ONNX: graphs, export, calibration, quantisation, parity."""
