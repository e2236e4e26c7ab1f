"""Predictions before a run: memory, FLOPs, communication, time, and which strategies fit a GPU.

Imports schemas only.
"""
