"""Build a pack: map blocks on all cores, plan rows, gather and write them.

The top of `gemfit.data`: may import every other folder of it.
"""
