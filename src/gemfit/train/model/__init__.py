"""The model: build, shard, attention, LoRA and QLoRA, chunked loss on packed rows.

Imports transformers, `gemfit.data`, schemas, and `checkpoint`, `data`, `distributed` of `gemfit.train`.
"""
