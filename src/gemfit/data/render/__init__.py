"""Render messages to token ids and labels: chat template, label mask, content hash.

May import `tokenize`, `jsonl`, `document`.
"""
