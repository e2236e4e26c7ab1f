"""Push of weights and card to the Hugging Face Hub: staging, retries, commits.

Imports `export`, `modelcard`, `upload`.
"""
