"""JSONL parsing of conversations: blocks, lines, message contents, errors with `file:line`.

The bottom of `gemfit.data`: imports schemas and `core`.
"""
