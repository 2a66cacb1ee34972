"""What is written down about the contract: every text, list and map in it has a bound."""

import re

import pytest

from contract.document import messages, render_markdown, schema
from contract.topics import TOPICS


def unbounded(node, where, definitions):
    """Return the places in a JSON Schema where a peer may send as much as it likes."""
    if "$ref" in node:
        node = definitions[node["$ref"].rsplit("/", 1)[-1]]
    bad = []
    kind = node.get("type")
    if kind == "string" and not {"maxLength", "enum", "const"} & node.keys():
        pattern = node.get("pattern", "")
        bad += [where] if not pattern or re.search(r"[*+]|,\}", pattern) else []
    if kind == "array":
        bad += [] if "maxItems" in node else [f"{where}[]"]
        bad += unbounded(node.get("items", {}), f"{where}[]", definitions)
    if kind == "object" and "properties" not in node:
        bad += [] if "maxProperties" in node else [f"{where}{{}}"]
        bad += [] if "propertyNames" in node or "patternProperties" in node else [f"{where}{{key}}"]
        extra = node.get("additionalProperties")
        bad += unbounded(extra, f"{where}{{}}", definitions) if isinstance(extra, dict) else []
    for name, child in node.get("properties", {}).items():
        bad += unbounded(child, f"{where}.{name}", definitions)
    for child in node.get("anyOf", []):
        bad += unbounded(child, where, definitions)
    return bad


@pytest.mark.parametrize("message", messages(), ids=lambda m: m.__name__)
def test_every_field_has_a_size_limit(message):
    made = schema(message)
    assert unbounded(made, message.__name__, made.get("$defs", {})) == []
    assert made["additionalProperties"] is False


def test_the_check_sees_a_missing_limit():
    assert unbounded({"type": "string"}, "x", {}) == ["x"]
    assert unbounded({"type": "array", "items": {"type": "integer"}}, "x", {}) == ["x[]"]


def test_the_page_has_a_row_for_every_topic():
    page = render_markdown()
    for topic in TOPICS:
        assert f"| `{topic.full}` | {topic.message.__name__} |" in page
