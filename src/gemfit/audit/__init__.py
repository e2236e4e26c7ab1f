"""Safety prompt suites: scores with confidence intervals, findings, base model against checkpoint.

Imports `evaluate`, schemas.
"""
