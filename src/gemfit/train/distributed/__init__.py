"""Process groups and engines: CPU backend, FSDP2 and DeepSpeed set-up, agreed stop.

Imports torch, accelerate, schemas.
"""
