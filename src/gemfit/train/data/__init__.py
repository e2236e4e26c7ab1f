"""Batches of packed rows: schedule, collate, prefetch, row ledger.

Imports `gemfit.data.pack` and schemas.
"""
