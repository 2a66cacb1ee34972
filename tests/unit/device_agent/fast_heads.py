"""The memory of known heads of the compiled meter, for tests: ``flows/fast/heads.c`` by itself."""

import ctypes

from device_agent.flows.fast.library import load

UNKNOWN, MALFORMED = -1, 1 << 30
SETS, WAYS, HEAD_BYTES = 512, 4, 96


def library() -> ctypes.CDLL:
    """Return a library object of its own, so that signatures are set for nobody else."""
    found = ctypes.CDLL(load()._name)
    found.kw_heads_new.restype, found.kw_heads_new.argtypes = ctypes.c_void_p, [ctypes.c_uint64]
    found.kw_heads_free.restype, found.kw_heads_free.argtypes = None, [ctypes.c_void_p]
    of_payload = [ctypes.c_int32, ctypes.c_char_p, ctypes.c_int64]
    found.kw_heads_find.argtypes = [ctypes.c_void_p, *of_payload]
    found.kw_heads_keep.restype, found.kw_heads_keep.argtypes = None, [ctypes.c_void_p, ctypes.c_int32]
    found.kw_head.argtypes = [*of_payload, ctypes.c_char_p]
    return found


def head(compiled: ctypes.CDLL, kind: int, payload: bytes) -> bytes:
    """Return the bytes that the reading of a payload depends on. What lies behind the payload is not looked at."""
    to = ctypes.create_string_buffer(HEAD_BYTES + 8)
    size = compiled.kw_head(kind, payload + b"\x5a" * 8, len(payload), to)
    assert 0 < size <= HEAD_BYTES
    assert not any(to.raw[size:])
    return to.raw[:size]
