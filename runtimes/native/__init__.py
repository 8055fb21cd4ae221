"""C bundles, compiled on this machine and called without copying.

shim.c is what is compiled around a bundle's source (causalrn/compiling/ does that, once), library.py calls it,
native_state.py holds the state as the C code lays it out, native_session.py: all of it as a session.
"""
