"""Calibration: trajectories in which the state is carried, observers, quantization schemes and their reports.

The room between runtimes (which it drives) and export (which it serves); nothing lives here before quantization does.
"""
