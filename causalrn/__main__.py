"""`python -m causalrn`: the command line where its script is not on the path."""

from causalrn.cli import main

main()
