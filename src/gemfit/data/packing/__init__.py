"""Bin packing: split long conversations into chunks, pack chunks into rows (best-fit decreasing).

May import `jsonl` and `document`; no files, no processes.
"""
