"""Evaluation on the validation split: loss with confidence intervals, per role and turn, sample replies.

Imports `train`, `data`, `export`, schemas.
"""
