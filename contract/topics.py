"""The topic table: every topic, who may publish it, and how.

The contract's major version is a topic level, so a peer of another major never hears what it cannot read.
Brokers' access rules and the docs are generated from ``TOPICS``.
"""

import re
from dataclasses import dataclass
from typing import Literal

from contract import CONTRACT_MAJOR
from contract.errors import TopicError
from contract.messages import (
    ActiveModel,
    Assignment,
    Birth,
    EvaluationReport,
    EveAlert,
    GatewayState,
    MarkSet,
    Message,
    ModelUpdate,
    Receipt,
    Release,
    RoundTask,
    RunCommand,
    Signature,
    Status,
    Telemetry,
)

ROOT = f"kinwatch/{CONTRACT_MAJOR}"
Party = Literal["device", "gateway", "harness"]

_SEGMENT = {
    "device": r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?",
    "digest": r"[0-9a-f]{64}",
    "run": r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?",
}


@dataclass(frozen=True, slots=True)
class Topic:
    """One row of the table.

    Attributes
    ----------
    name
        Short name.
    pattern
        Levels below the root; ``{device}``, ``{digest}``, ``{run}`` are filled in.
    message
        What travels on it.
    publisher
        The only party that may publish. A device publishes only below its own id.
    readers
        Who subscribes.
    qos
        0 or 1.
    retain
        Whether the broker keeps the last message; an empty payload clears it.
    """

    name: str
    pattern: str
    message: type[Message]
    publisher: Party
    readers: tuple[Party, ...]
    qos: Literal[0, 1]
    retain: bool

    def of(self, **parts: str) -> str:
        """Return the topic string for the given parts.

        Raises
        ------
        TopicError
            If a part is missing, not wanted, or not of its form.
        """
        names = re.findall(r"\{(\w+)\}", self.pattern)
        if set(parts) != set(names):
            raise TopicError(f"topic {self.name} takes {names}, got {sorted(parts)}", reason="topic-parts")
        for name, value in parts.items():
            if not re.fullmatch(_SEGMENT[name], value):
                raise TopicError(f"{value!r} is no {name} id", reason="topic-part-form")
        return f"{ROOT}/{self.pattern.format(**parts)}"

    @property
    def wildcard(self) -> str:
        """The subscription that matches this topic for all ids."""
        return ROOT + "/" + re.sub(r"\{\w+\}", "+", self.pattern)


def _device(name: str, message: type[Message], *, qos: Literal[0, 1] = 1, retain: bool = False) -> Topic:
    return Topic(name, f"device/{{device}}/{name}", message, "device", ("gateway", "harness"), qos, retain)


def _to_device(name: str, message: type[Message], *, retain: bool) -> Topic:
    return Topic(name, f"device/{{device}}/{name}", message, "gateway", ("device", "harness"), 1, retain)


GATEWAY_STATE = Topic("state", "gateway/state", GatewayState, "gateway", ("device", "harness"), 1, True)
BIRTH = _device("birth", Birth, retain=True)
STATUS = _device("status", Status, retain=True)
TELEMETRY = _device("telemetry", Telemetry, qos=0)
SIGNATURE = _device("signature", Signature, retain=True)
UPDATE = _device("update", ModelUpdate)
ACTIVE = _device("active", ActiveModel, retain=True)
REPORT = _device("report", EvaluationReport)
ALERT = _device("alert", EveAlert)
TASK = _to_device("task", RoundTask, retain=True)
ASSIGNMENT = _to_device("assignment", Assignment, retain=True)
RECEIPT = _to_device("receipt", Receipt, retain=False)
RELEASE = Topic("model", "model/{digest}", Release, "gateway", ("device", "harness"), 1, True)
MARKS = Topic("mark", "run/{run}/mark/{device}", MarkSet, "harness", ("device",), 1, True)
COMMAND = Topic("command", "run/{run}/command", RunCommand, "harness", ("device",), 1, False)

TOPICS: tuple[Topic, ...] = (
    GATEWAY_STATE,
    BIRTH,
    STATUS,
    TELEMETRY,
    SIGNATURE,
    UPDATE,
    ACTIVE,
    REPORT,
    ALERT,
    TASK,
    ASSIGNMENT,
    RECEIPT,
    RELEASE,
    MARKS,
    COMMAND,
)


@dataclass(frozen=True, slots=True)
class ParsedTopic:
    """A topic string taken apart.

    Attributes
    ----------
    topic
        Row of the table.
    device_id, digest, run_id
        The parts that its pattern names, ``None`` for the others.
    """

    topic: Topic
    device_id: str | None = None
    digest: str | None = None
    run_id: str | None = None


def _compile(topic: Topic) -> re.Pattern[str]:
    body = re.sub(r"\{(\w+)\}", lambda m: f"(?P<{m[1]}>{_SEGMENT[m[1]]})", topic.pattern)
    return re.compile(f"{ROOT}/{body}")


_COMPILED = tuple((_compile(topic), topic) for topic in TOPICS)


def parse(text: str) -> ParsedTopic:
    """Take a topic string apart.

    Raises
    ------
    TopicError
        If the string is not in the table (reason ``topic-unknown``).
    """
    for pattern, topic in _COMPILED:
        if match := pattern.fullmatch(text):
            parts = match.groupdict()
            return ParsedTopic(topic, parts.get("device"), parts.get("digest"), parts.get("run"))
    raise TopicError(f"topic {text[:120]!r} is not one of ours", reason="topic-unknown")


def render_markdown() -> str:
    """Return the topic table as Markdown (``docs/protocol.md`` is generated from it)."""
    lines = [
        "# Protocol",
        "",
        (
            f"MQTT, root `{ROOT}`. Generated from `contract/topics.py`; do not edit. A device publishes only below its "
            "own id, and its MQTT user name is that id. CBOR between machines, JSON where people read."
        ),
        "",
        "| topic | message | encoding | publisher | readers | QoS | retained | max bytes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{ROOT}/{t.pattern}` | {t.message.__name__} | {t.message.encoding} | {t.publisher} | "
        f"{', '.join(t.readers)} | {t.qos} | {'yes' if t.retain else 'no'} | {t.message.max_bytes:,} |"
        for t in TOPICS
    ]
    for topic in TOPICS:
        lines += ["", f"## {topic.message.__name__}", "", (topic.message.__doc__ or "").split("\n")[0], ""]
        lines += [f"- `{name}`: {_type_text(field.annotation)}" for name, field in topic.message.model_fields.items()]
    return "\n".join(lines) + "\n"


def _type_text(annotation: object) -> str:
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return re.sub(r"\b(?:contract|typing|annotated_types)\.(?:\w+\.)*", "", text).split("Annotated[", 1)[0] or "value"
