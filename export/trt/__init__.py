"""TensorRT: compiles an ONNX bundle's graphs to engines. Building needs no GPU with TensorRT-RTX.

lint.py looks for what TensorRT cannot take, profiles.py chooses the sizes to compile for, builder.py parses and builds,
engine_writer.py does it for a whole bundle.
"""
