"""The level `kernels`: every graph, instruction set, engine and program of a bundle is run by itself."""
