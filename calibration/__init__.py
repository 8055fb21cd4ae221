"""Calibration: trajectories in which the state is carried, observers, quantization schemes and their reports.

The room between runtimes (which it runs) and export (which it serves).
"""
