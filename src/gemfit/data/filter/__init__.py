"""Conversation selection: deduplication, validation split, PII scan, mixture weights.

May import `dedup`, `render`, `jsonl`.
"""
