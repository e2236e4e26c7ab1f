"""Batches of packed rows: schedule, collate, prefetch, row ledger.

Imports `gemfit.data.pack`, `gemfit.data.document`, schemas and `train.trainer_view`.
"""
