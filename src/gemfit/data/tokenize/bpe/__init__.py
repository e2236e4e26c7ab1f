"""Exact BPE with a word cache, compiled with numba, for large inputs; see README.md.

It implements the `Encoder` protocol. Imported only by builds that are large enough to pay for compiling it.
"""
