"""Chat template rendering: messages to token ids and labels (loss mask), content hashes.

May import `tokenize`, `jsonl`, `document`.
"""
