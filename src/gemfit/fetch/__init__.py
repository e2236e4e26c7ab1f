"""Downloads of a recipe's model, tokenizer and datasets into the Hub cache that jobs read.

Imports `hub`, schemas and `core`; needs huggingface_hub, and `datasets` where data is on the Hub.
"""
