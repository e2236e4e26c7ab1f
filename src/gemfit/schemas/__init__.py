"""Frozen pydantic models that launcher and nodes share: recipe, plan, site, manifests, records.

Imports pydantic, `errors` and `config` only.
"""
