"""Whether freed memory goes back to the system (malloc_trim) or is used again (mallopt).

Both are settings of the GNU library; elsewhere they do nothing, and cost some memory or time.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of ``mallopt``, as ``malloc.h`` has them."""
KEPT_BYTES = 2**28


def trim_heap() -> None:
    """Give memory that was freed back to the system; what is forked from here on would count it as well."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def keep_freed_memory() -> None:
    """Have this process use freed memory again, rather than give it back and ask for it anew.

    Block after block needs arrays of the same sizes, and fresh pages for them are a tenth of all the work.
    """
    # By itself the library does so up to 32 MiB, which the largest of them are above.
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
