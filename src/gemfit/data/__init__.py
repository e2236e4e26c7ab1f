"""From conversations to packed rows on disk: read, render, split, pack, store, order.

The stages meet only in ``build``; ``store`` and ``order`` are all that training needs.
"""
