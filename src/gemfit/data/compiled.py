"""``njit`` with a cache in ``$GEMFIT_CACHE/numba`` that is keyed by the content of the source, not its path.

numba caches machine code next to the source or in the home folder, by path and time of the file: a job with a
frozen copy of the code, a container with a read-only site-packages and a fresh home would compile again each
time, which takes half a minute. Here the folder is named by a digest of all kernels, of Python and of numba;
numba itself distinguishes processors inside it.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from gemfit.schemas.pack_job import cache_folder

SOURCES = Path(__file__).parent
LOCATOR = f"{__name__}.CacheLocator"

_compiles = True


def interpret_kernels() -> None:
    """Run every kernel that is defined from now on as Python, for inputs that cannot pay for compiling.

    Call it before a module with kernels is imported. Results are the same; numpy's warnings about
    integers that wrap around, which hashes need, are off.
    """
    global _compiles
    _compiles = False
    np.seterr(over="ignore")


def njit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """``numba.njit(cache=True)``, with the folder of ``compiled_folder`` for its cache."""
    if function is None:
        return functools.partial(njit, **options)
    if not _compiles:
        return function
    import numba  # noqa: PLC0415  (half a second to import)
    from numba.core import config  # noqa: PLC0415

    before, config.CACHE_LOCATOR_CLASSES = config.CACHE_LOCATOR_CLASSES, LOCATOR
    try:
        return numba.njit(cache=True, **options)(function)
    finally:
        config.CACHE_LOCATOR_CLASSES = before


def njit_helper(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """``njit`` for a kernel that only other kernels call, without the wrapper for Python callers.

    The wrapper is a fifth of the compile time of a small function.
    """
    return njit(function, no_cpython_wrapper=True, no_cfunc_wrapper=True, **options)


def external(name: str, result: str, *arguments: str) -> Any:
    """A function of the C library for kernels; its types are integers, as `int64`."""
    if _compiles:
        from numba import types  # noqa: PLC0415

        signature = getattr(types, result)(*(getattr(types, argument) for argument in arguments))
        return types.ExternalFunction(name, signature)
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    function.argtypes = [getattr(ctypes, f"c_{kind}") for kind in arguments]
    function.restype = getattr(ctypes, f"c_{result}")
    return lambda *values: function(*map(int, values))


@functools.cache
def compiled_folder() -> Path:
    """Folder of compiled code: below ``$NUMBA_CACHE_DIR`` if set, else in ``$GEMFIT_CACHE/numba``.

    A temporary folder, with a message on stderr, if it cannot be written.
    """
    own = os.environ.get("NUMBA_CACHE_DIR")
    root = Path(own) if own else cache_folder() / "numba"
    folder = root / _kernels_digest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        sys.stderr.write(
            f"{folder}: cannot be written ({error.strerror}), so kernels are compiled for this build "
            "alone; set GEMFIT_CACHE to a folder that can\n"
        )
        return Path(tempfile.mkdtemp(prefix="gemfit-numba-"))
    return folder


def kernels_compile() -> bool:
    """Whether kernels are compiled in this process, or run as Python."""
    return _compiles


def all_compiled_marker() -> Path:
    """A file that is there once a build on this kind of processor has compiled what packing needs."""
    from llvmlite import binding  # type: ignore[import-untyped]  # noqa: PLC0415  (slow to import)

    return compiled_folder() / f"compiled-{binding.get_host_cpu_name()}"


def initialize_numba() -> None:
    """Do in this process what numba does at its first call of a kernel, so that forked workers share it.

    It imports the extensions of every installed package that has some: a second, and a hundred MiB.
    """
    if _compiles:
        from numba.core import entrypoints, registry  # noqa: PLC0415

        entrypoints.init_all()
        registry.cpu_target.target_context.refresh()


def _kernels_digest() -> str:
    """Digest of every module with kernels: a kernel contains those that it calls, from any module."""
    digest = hashlib.blake2b(digest_size=12)
    digest.update(f"{sys.version_info[:3]} {version('numba')}".encode())
    for path in sorted(SOURCES.rglob("*.py"), key=lambda path: path.relative_to(SOURCES).as_posix()):
        source = path.read_bytes()
        if b"njit" in source or b"numba" in source:
            digest.update(path.relative_to(SOURCES).as_posix().encode() + source)
    return digest.hexdigest()


class CacheLocator:
    """numba's locator of the cache of one function (``NUMBA_CACHE_LOCATOR_CLASSES``)."""

    def __init__(self, function: Callable[..., Any], source_file: str) -> None:
        self._py_file = source_file  # numba's warning of a function that it cannot cache shows it
        # Two modules of one file name may have kernels of one name.
        name = f"{function.__module__}.{function.__qualname__}"
        self._disambiguator = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()

    @classmethod
    def from_function(cls, function: Callable[..., Any], source_file: str) -> CacheLocator:
        return cls(function, source_file)

    def ensure_cache_path(self) -> None:
        compiled_folder()

    def get_cache_path(self) -> str:
        return os.fspath(compiled_folder())

    def get_source_stamp(self) -> str:
        """Constant: the folder's name contains the digest of the source."""
        return "1"

    def get_disambiguator(self) -> str:
        return self._disambiguator
