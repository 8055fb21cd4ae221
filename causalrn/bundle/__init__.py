"""What a bundle is: state contract, manifest, table of targets, files and their hashes, JSON. Needs no torch.

Exporters write bundles, runtimes open them, and this is all that the two share.
"""
