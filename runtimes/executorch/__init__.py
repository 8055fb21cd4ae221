"""ExecuTorch on this machine: runs the programs that phones run."""
