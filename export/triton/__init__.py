"""Model folders for NVIDIA's Triton Inference Server."""
