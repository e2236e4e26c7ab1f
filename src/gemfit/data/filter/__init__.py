"""Conversation selection: validation split, exact duplicates, PII, mixture weights.

May import `dedup`, `render`, `jsonl`.
"""
