"""ExecuTorch programs of a checkpoint's cell, for XNNPACK or ExecuTorch's own kernels."""
