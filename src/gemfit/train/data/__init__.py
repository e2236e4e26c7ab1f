"""Batches of packed rows: schedule, collate, prefetch, row ledger.

Imports `gemfit.data.pack`, `gemfit.data.document`, schemas, `train.thread_device` and `train.trainer_view`.
"""
