"""Inspect, summarise and verify a pack: rows as text, statistics, integrity.

May import `pack`, `packing`, `render`; not `build`.
"""
