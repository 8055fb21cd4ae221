"""The models: configuration, readouts (definition beside fast form), blocks, baselines, folding, the recurrent cell.

`config` and `state` need no torch; everything else does.
"""
