"""Push of weights and card to the Hugging Face Hub: export, retries, commits.

Imports `export`, `modelcard`, `upload`.
"""
