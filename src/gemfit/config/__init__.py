"""YAML with the file and line of every value, overrides (`--set`), and their errors.

Imports ruamel.yaml, `errors` and the base of the schemas.
"""
