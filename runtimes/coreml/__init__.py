"""Core ML: runs a converted bundle's packages on a Mac; elsewhere their programs are evaluated in numpy.

program.py reads a package, operators.py has its operators, evaluator_session.py runs it that way; coreml_session.py
runs it in Core ML.
"""
