"""One module per verb: typed arguments in, a typed result out; no printing, progress through a callback.

:mod:`causalrn` loads these functions lazily; the command line parses, calls one of them and prints.
"""
