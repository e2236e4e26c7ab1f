"""Forms of conversations in JSONL: one function per form, to messages.

Imports the settings, rules and error texts of ``gemfit.data.jsonl``, and nothing that parses messages.
"""
