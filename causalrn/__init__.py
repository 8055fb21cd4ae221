"""Causal Relation Networks from training to the device, provably unchanged."""

__version__ = "0.1.0"
