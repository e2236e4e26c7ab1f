"""The model: build, shard, attention, LoRA and QLoRA, loss in slices on packed rows.

Imports transformers, `gemfit.data`, schemas, and `checkpoint`, `data`, `distributed` of `gemfit.train`.
"""
