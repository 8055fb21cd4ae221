"""What models spend their time in, as operators of PyTorch with several kernels each.

pair_sum.py: the sum over pairs, sum_{j<=i} f(q_i + k_j), the exact readout's parallel form; normalize.py: LN0.
kernels.py is the table of what can compute them and the choice between them: tiles.py in PyTorch, c_kernels.py around
the C in c/, triton_kernels.py around the programs for GPUs in triton_passes.py. Memory stays at [B, T, H] with all.
"""
