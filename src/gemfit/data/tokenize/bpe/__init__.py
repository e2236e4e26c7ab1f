"""Exact BPE with a word cache, compiled with numba, for large inputs. See README.md.

Behind the `Encoder` protocol; imports numba and tables of `tokenizer.json`.
"""
