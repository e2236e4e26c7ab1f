"""Bin packing: split long conversations into fragments, merge these into chunks, pack chunks into rows.

May import `jsonl` and `document`; no files, no processes.
"""
