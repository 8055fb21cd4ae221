"""C99: a cell as one source file that needs nothing, with its weights beside it or compiled in.

kernel/ holds the cell in C, in pieces that causalrn.c there includes; amalgamation.py makes one file of them.
source/ holds the other C that bundles get; header.py writes what a model is into causalrn.h, packing.py lays out the
weights, golden_header.py writes the self-test's numbers, c99_exporter.py does it all for a checkpoint.
"""
