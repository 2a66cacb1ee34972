"""One canonical byte form for things that are hashed or signed."""

import hashlib
import json


def canonical_json(value: object) -> bytes:
    """Encode JSON-able data as UTF-8 with sorted keys and no white space.

    Parameters
    ----------
    value
        Dictionaries, lists, strings, integers, booleans and ``None``. Floats are refused: their text form
        is not canonical between implementations.

    Returns
    -------
    bytes
        The canonical form.

    Raises
    ------
    TypeError
        If the value holds a float or another type that JSON does not know.
    """
    _refuse_floats(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of ``data`` as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def _refuse_floats(value: object) -> None:
    if isinstance(value, float):
        raise TypeError("canonical JSON takes no floats; use an integer in a smaller unit or a string")
    if isinstance(value, dict):
        for item in value.values():
            _refuse_floats(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_floats(item)
