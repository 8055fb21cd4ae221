"""C99: a cell as one source file that needs nothing, with its weights beside it or compiled in.

source/ holds the C that every bundle gets; header.py writes what a model is into causalrn.h, packing.py lays out the
weights, golden_header.py writes the self-test's numbers, c99_exporter.py does it all for a checkpoint.
"""
