"""Frozen pydantic models that launcher and nodes share: recipe, plan, site, manifests, records.

Imports pydantic, `core` and `errors` only.
"""
