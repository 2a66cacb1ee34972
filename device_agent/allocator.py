"""Settings of the C library's allocator for a small board; does nothing where it is not glibc."""

import ctypes
import sys
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGE_BYTES = 65_536


def save_memory() -> None:
    """Give freed arrays back to the system at once, and let all threads share one arena.

    By default a freed large block raises the size from which blocks are mapped alone, up to 32 MB: after the first
    training the arrays of a device stay in the heap for good. To be called before other threads start.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGE_BYTES)


def give_back() -> None:
    """Return free pages inside the heap to the system; takes about a millisecond."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
