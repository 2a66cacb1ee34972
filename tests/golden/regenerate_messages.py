"""Write the golden vectors of the messages anew: ``<Message>.bin`` as on the wire, ``<Message>.json`` as fields.

In the JSON files, byte strings are written as ``{"hex": "..."}``.
"""

import json
from pathlib import Path

from contract.codec import encode
from tests.unit.contract.samples import SAMPLES

HERE = Path(__file__).resolve().parent / "messages"


def as_fields(value):
    """Return decoded data with byte strings spelt out."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, dict):
        return {key: as_fields(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_fields(item) for item in value]
    return value


def json_text(message):
    return json.dumps(as_fields(message.model_dump(mode="python")), indent=1, sort_keys=True) + "\n"


def main():
    HERE.mkdir(exist_ok=True)
    for message in SAMPLES:
        name = type(message).__name__
        (HERE / f"{name}.bin").write_bytes(encode(message))
        (HERE / f"{name}.json").write_text(json_text(message), encoding="utf-8")


if __name__ == "__main__":
    main()
