"""Parity: sessions compared with the oracle, level by level, and for what differs: where, since when, whose fault.

Data flows: tokens -> `Reference` (exact values and error bounds, from oracle.py or golden.py) -> levels, each driving a
session its own way -> `LevelResult` -> `Attribution` of what failed -> `VerifyReport`.
"""
