"""Near-duplicate detection: MinHash signatures and LSH.

Imports numpy and numba only.
"""
