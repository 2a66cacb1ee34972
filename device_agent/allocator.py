"""Memory given back to the system on a small board; does nothing where the C library is not glibc on Linux."""

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGE_BYTES = 65_536
_MADV_DONTNEED = 4
_MAPPINGS = Path("/proc/self/smaps")


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


def let_go_of_code() -> int:
    """Unmap the pages of libraries that the start has touched; those still needed come back when they are used.

    Most of what runs while libraries are imported never runs again. The pages are clean, and a small board would evict
    them anyway, after it had looked for them. To be called once all libraries are imported and before other threads
    start: one of them could be in the middle of loading a library.

    Returns
    -------
    int
        Bytes of the mappings, resident or not; 0 if there is another thread or nobody knows what is mapped.
    """
    libc = _glibc()
    total = 0
    if libc is None or threading.active_count() > 1:
        return total
    with suppress(OSError):
        for start, stop in untouched_code(_MAPPINGS.read_text(encoding="utf-8", errors="replace")):
            if libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), _MADV_DONTNEED) == 0:
                total += stop - start
    return total


def untouched_code(mappings: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of private read-only mappings of files in which no page was ever written.

    A page that the loader wrote into is the process' own, in memory or swapped out, also when the mapping is read-only
    by now: dropped, it would be lost.

    Parameters
    ----------
    mappings
        As ``/proc/<pid>/smaps`` has them.
    """
    head: list[str] = []
    own_kb = 0
    for line in mappings.splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            head, own_kb = words, 0
        elif words[0] == "Anonymous:":
            own_kb = int(words[1])
        elif words[0] == "Swap:" and own_kb + int(words[1]) == 0 and head[1] in ("r--p", "r-xp") and head[4] != "0":
            start, stop = head[0].split("-")
            yield int(start, 16), int(stop, 16)


@cache
def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
