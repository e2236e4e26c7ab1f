"""A finished pack: memory-mapped rows, manifest, shuffled order of an epoch.

What training reads: imports schemas and `core`.
"""
