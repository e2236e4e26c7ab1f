"""Site files: load, check, and generate a first one from `sinfo`.

Imports schemas, `commands` and `cluster`.
"""
