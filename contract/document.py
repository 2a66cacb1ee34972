"""The contract written down for people and other implementations: protocol page and JSON Schemas."""

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from contract import CONTRACT_VERSION
from contract.messages import Message
from contract.topics import ROOT, TOPICS, Topic

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def messages() -> tuple[type[Message], ...]:
    """Return the messages that travel, in the order of the topic table."""
    return tuple(dict.fromkeys(topic.message for topic in TOPICS))


def schema(message: type[Message]) -> dict[str, Any]:
    """Return the JSON Schema of a message.

    A CBOR message has the same fields; a field of format ``binary`` is a byte string, and its lengths count bytes.
    """
    return {
        "$schema": DIALECT,
        "$comment": f"contract {CONTRACT_VERSION}, {message.encoding}, at most {message.max_bytes} bytes encoded",
        **message.model_json_schema(mode="validation"),
    }


def render_markdown() -> str:
    """Return the topic table as Markdown (``docs/protocol.md`` is generated from it)."""
    lines = [
        "# Protocol",
        "",
        (
            f"MQTT, root `{ROOT}`. Generated from `contract/topics.py`; do not edit. A device publishes only below its "
            "own id, and its MQTT user name is that id. CBOR between machines, JSON where people read. Payloads over "
            "64 KiB are offered and pulled in chunks. Expiry is MQTT 5's message expiry; a request on MQTT 5 names the "
            "topic of its answer and a correlation, which the answer repeats. Without both, nothing breaks. "
            "Schemas: `docs/schema/`; examples of every message: `tests/golden/messages/`."
        ),
        "",
        "| topic | message | encoding | publisher | readers | QoS | retained | expires | answered on | max bytes |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{t.full}` | {t.message.__name__} | {t.message.encoding} | {t.publisher} | "
        f"{', '.join(t.readers)} | {t.qos} | {'yes' if t.retain else 'no'} | {_expiry_text(t)} | "
        f"{t.answer or ''} | "
        f"{t.message.max_bytes:,} |"
        for t in TOPICS
    ]
    for message in messages():
        lines += ["", f"## {message.__name__}", "", (message.__doc__ or "").split("\n")[0], ""]
        lines += [f"- `{name}`: {_type_text(field.annotation)}" for name, field in message.model_fields.items()]
    return "\n".join(lines) + "\n"


def _expiry_text(topic: Topic) -> str:
    return f"{topic.expiry:,} s" if isinstance(topic.expiry, int) else topic.expiry


def _type_text(annotation: object) -> str:
    """Return a type as it reads in a table: without the constraints, which are in the JSON Schema."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is None or annotation is NoneType:
        return "None"
    if annotation is Ellipsis:
        return "..."
    if origin is Annotated:
        return _type_text(arguments[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join(_type_text(argument) for argument in arguments)
    name = str(getattr(origin or annotation, "__name__", annotation))
    return f"{name}[{', '.join(_type_text(argument) for argument in arguments)}]" if arguments else name
