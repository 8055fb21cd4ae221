"""The sum over pairs, sum_{j<=i} f(q_i + k_j): the exact readout's parallel form, as one operator with several kernels.

operator.py is what models call, kernels.py the table of what can compute it and the choice between them: tiles.py in
PyTorch, c_kernel.py around the C in c/. Memory stays at [B, T, H] with all of them.
"""
