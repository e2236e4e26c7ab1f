"""Chat with a model in a terminal, in the format it was trained in.

Imports `evaluate`, `export`, schemas.
"""
