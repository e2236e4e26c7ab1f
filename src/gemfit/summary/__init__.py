"""Values to show of an evaluation, an audit and a run's attempts; model card, report and terminal render them.

Imports `rundir`, schemas.
"""
