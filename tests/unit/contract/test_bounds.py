"""Every field of every message has a bound, so that a peer cannot make a receiver hold more than the contract says."""

import pytest

from contract.document import messages, schema


def unbounded(node, path, definitions, seen=frozenset()):
    """Yield the paths below a schema node whose size or value nothing bounds."""
    if "$ref" in node:
        name = node["$ref"].rsplit("/", 1)[1]
        if name not in seen:
            yield from unbounded(definitions[name], path, definitions, seen | {name})
        return
    for sub in (*node.get("anyOf", ()), *node.get("oneOf", ()), *node.get("allOf", ())):
        yield from unbounded(sub, path, definitions, seen)
    match node.get("type"):
        case "string" if not {"maxLength", "pattern", "enum", "const"} & node.keys():
            yield path
        case "integer" if not {"minimum", "maximum"} <= node.keys() and not {"enum", "const"} & node.keys():
            yield path
        case "array":
            if "maxItems" not in node:
                yield path
            for sub in (node["items"],) if isinstance(node.get("items"), dict) else node.get("prefixItems", ()):
                yield from unbounded(sub, f"{path}[]", definitions, seen)
        case "object":
            for name, sub in node.get("properties", {}).items():
                yield from unbounded(sub, f"{path}.{name}", definitions, seen)
            values = [*node.get("patternProperties", {}).values(), node.get("additionalProperties")]
            open_ = [sub for sub in values if isinstance(sub, dict)]
            if (open_ and "maxProperties" not in node) or (not open_ and "properties" not in node):
                yield path
            for sub in open_:
                yield from unbounded(sub, f"{path}{{}}", definitions, seen)


@pytest.mark.parametrize("message", messages(), ids=lambda message: message.__name__)
def test_every_field_is_bounded(message):
    whole = schema(message)
    assert list(unbounded(whole, message.__name__, whole.get("$defs", {}))) == []
    assert whole["additionalProperties"] is False
    assert message.max_bytes <= 4_194_304


def test_the_search_sees_an_open_field():
    for node in (
        {"type": "string"},
        {"type": "integer", "minimum": 0},
        {"type": "array", "items": {"type": "string", "maxLength": 3}},
        {"type": "array", "maxItems": 3, "items": {"type": "string"}},
        {"type": "object", "additionalProperties": {"type": "string", "maxLength": 3}},
        {"type": "object"},
        {"anyOf": [{"type": "null"}, {"type": "string"}]},
    ):
        assert list(unbounded(node, "x", {})), node
