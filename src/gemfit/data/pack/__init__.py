"""Reading of finished packs: memory-mapped rows, manifest, shuffled order of an epoch.

Read by training; imports schemas and `core`.
"""
