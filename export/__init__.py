"""What writes artifacts: ONNX graphs and bundles, and the command line (`causalrn.cli`).

Exporters and runtimes never import each other: they meet in the bundle on disk.
"""
