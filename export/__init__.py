"""What writes artifacts: exporters of ONNX graphs, C99 source, folders for browsers and TensorRT engines.

Exporters and runtimes never import each other: they meet in the bundle on disk and in the table of targets. The package
can be called: `causalrn.export(run, output=..., target=...)` is :func:`causalrn.workflows.export.export`.
"""

from causalrn.callable_package import make_callable

make_callable(__name__)
