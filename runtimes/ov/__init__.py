"""OpenVINO as a second runtime of ONNX bundles, on processors. The package is imported when a bundle is opened."""
