"""TensorRT: runs engine bundles on an NVIDIA GPU, the state staying there.

cuda_device.py is the GPU's memory and stream, device_state.py the state in it, host_exchange.py what goes there and
comes back; engine.py opens engines or says why they cannot run, context_call.py runs one; trt_session.py: all of it.
"""
