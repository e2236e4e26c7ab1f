"""Process groups and engines: CPU backend, meta-device init, FSDP2 and DeepSpeed set-up, agreed stop.

Imports torch, accelerate, schemas, `rundir` and `train.collective`.
"""
