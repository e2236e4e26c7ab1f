"""The model card of a checkpoint, from what the run has recorded.

Imports `summary`, `checkpoint`, `data`, `evaluate`, `export`, schemas.
"""
