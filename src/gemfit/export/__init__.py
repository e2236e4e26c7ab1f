"""From a checkpoint to a Hugging Face model folder: weights, tokenizer, chat template.

Imports `train.model`, `checkpoint`, schemas.
"""
