"""`python -m causalrn.export.cli`: the command line where its script is not on the path."""

from causalrn.export.cli import main

main()
