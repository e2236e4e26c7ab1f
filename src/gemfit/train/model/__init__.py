"""The model: build, shard, attention, LoRA and QLoRA, chunked loss on packed rows.

Imports torch, transformers, schemas.
"""
