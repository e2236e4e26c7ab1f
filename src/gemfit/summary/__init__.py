"""Summaries of an evaluation, an audit and a run's attempts, for model card, report and terminal.

Imports `rundir`, schemas.
"""
