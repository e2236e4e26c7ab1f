"""Checks of this machine: GPUs, packages, network, without importing torch.

Imports schemas only.
"""
