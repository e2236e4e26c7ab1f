"""A run as one HTML page without network access, and as pictures.

Imports `summary`, `data`, `evaluate`, schemas.
"""
