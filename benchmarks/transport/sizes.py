"""Bytes of an update: raw float32, compressed, and as int8 deltas with error feedback; and what these cost in F1."""


def measure() -> dict[str, object]:
    return {}
