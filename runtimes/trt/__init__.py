"""TensorRT: runs engine bundles on an NVIDIA GPU, the state staying there.

cuda_device.py is the GPU's memory and stream, device_state.py the state
in it, engine.py what a compiled graph needs to run, and trt_session.py the session.
"""
