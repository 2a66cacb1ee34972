"""Finds and opens the compiled meter. ``scripts/build-fast`` makes it; nothing needs it."""

import ctypes
import platform
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from contract.features import NAMES
from device_agent.flows.records import IDENTITY

_NAME = f"libkwmeter-{platform.machine()}.so"
_PACKAGE = "kinwatch_fast"
"""The package of the extra ``fast``, which holds the library alone."""

_POINTER, _I32, _I64, _U64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_uint64
_SIGNATURES: dict[str, tuple[type | None, list[type]]] = {
    "kw_identity_bytes": (_I64, []),
    "kw_feature_names": (ctypes.c_char_p, []),
    "kw_windows_new": (_POINTER, [_I32, _I32, _I32, _I64, _I64, _U64, _POINTER, _I64]),
    "kw_new": (_POINTER, [_I64, _I64, _I32, _U64, _POINTER]),
    "kw_free": (None, [_POINTER]),
    "kw_early": (None, [_POINTER, _I32, _I64]),
    "kw_select": (_I32, [_POINTER, _POINTER, _I64, _I32]),
    "kw_selected": (_POINTER, [_POINTER]),
    "kw_windows_wanted": (_I64, [_POINTER]),
    "kw_weights": (None, [_POINTER, _POINTER, _I64]),
    "kw_tell": (None, [_POINTER, _I32]),
    "kw_feed": (_I64, [*[_POINTER] * 5, _I32, _I64, _I64, _POINTER]),
    "kw_expire": (_I32, [_POINTER, _I64]),
    "kw_flush": (_I32, [_POINTER]),
    "kw_write_to": (_I32, [_POINTER, _POINTER, _POINTER, _I32]),
    "kw_live": (_I32, [_POINTER]),
    "kw_counters": (None, [_POINTER, _POINTER]),
    "kw_read": (_I64, [_POINTER, _I64, _POINTER, _I32, _I64, _I64, _I64, *[_POINTER] * 4]),
}


@cache
def load() -> ctypes.CDLL | None:
    """Return the library, or None if there is none for this machine or it was built for another layout."""
    for path in _candidates():
        try:
            library = ctypes.CDLL(str(path))
            for name, (result, arguments) in _SIGNATURES.items():
                function = getattr(library, name)
                function.restype, function.argtypes = result, arguments
        except (OSError, AttributeError):
            continue
        names = library.kw_feature_names().decode().split()
        if library.kw_identity_bytes() == IDENTITY.itemsize and names == list(NAMES):
            return library
    return None


def _candidates() -> list[Path]:
    """Return where the library may be: built in this tree, or installed."""
    places = [Path(__file__).with_name(_NAME)]
    spec = find_spec(_PACKAGE)
    if spec is not None and spec.origin is not None:
        places.append(Path(spec.origin).with_name(_NAME))
    return [path for path in places if path.is_file()]
