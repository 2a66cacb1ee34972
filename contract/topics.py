"""The topic table: every topic, who may publish it, and how.

The contract's major version is a topic level, so a peer of another major never hears what it cannot read.
Brokers' access rules and the docs are generated from ``TOPICS``.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal

from contract import CONTRACT_MAJOR
from contract.errors import TopicError
from contract.messages import (
    ActiveModel,
    Assignment,
    Birth,
    BlobChunk,
    BlobOffer,
    BlobRequest,
    Decline,
    EvaluationReport,
    EvaluationRequest,
    EveAlert,
    GatewayState,
    LossReport,
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
    Verdict,
    Versions,
)

ROOT = f"kinwatch/{CONTRACT_MAJOR}"
Party = Literal["device", "gateway", "harness"]
Expiry = int | Literal["never", "deadline"]
_MINUTE_S, _DAY_S = 60, 86_400

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
    expiry
        Seconds after which an MQTT 5 broker may drop a message that nobody fetched; ``deadline``: with the round.
        Only a saving: what is late is refused by its payload as well.
    versioned
        Whether the contract's major is a level of the topic.
    answer
        Last level of the topic on which the other side answers; MQTT 5 names it as the response topic.
    """

    name: str
    pattern: str
    message: type[Message]
    publisher: Party
    readers: tuple[Party, ...]
    qos: Literal[0, 1]
    retain: bool
    expiry: Expiry = "never"
    versioned: bool = True
    answer: str | None = None

    @property
    def full(self) -> str:
        """Root and pattern."""
        return f"{ROOT if self.versioned else ROOT.split('/', 1)[0]}/{self.pattern}"

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
        return self.full.format(**parts)

    @property
    def wildcard(self) -> str:
        """The subscription that matches this topic for all ids."""
        return re.sub(r"\{\w+\}", "+", self.full)


def _device(
    name: str, message: type[Message], *, qos: Literal[0, 1] = 1, retain: bool = False, expiry: Expiry = "never"
) -> Topic:
    return Topic(name, f"device/{{device}}/{name}", message, "device", ("gateway", "harness"), qos, retain, expiry)


def _asks(topic: Topic, answer: str) -> Topic:
    return replace(topic, answer=answer)


def _to_device(name: str, message: type[Message], *, retain: bool, expiry: Expiry = "never") -> Topic:
    return Topic(name, f"device/{{device}}/{name}", message, "gateway", ("device", "harness"), 1, retain, expiry)


VERSIONS = Topic("versions", "versions", Versions, "gateway", ("device", "harness"), 1, True, versioned=False)
GATEWAY_STATE = Topic("state", "gateway/state", GatewayState, "gateway", ("device", "harness"), 1, True)
BIRTH = _device("birth", Birth, retain=True)
STATUS = _device("status", Status, retain=True)
TELEMETRY = _device("telemetry", Telemetry, qos=0, expiry=_MINUTE_S)
SIGNATURE = _device("signature", Signature, retain=True)
UPDATE = _asks(_device("update", ModelUpdate, expiry=_DAY_S), "receipt")
DECLINE = _device("decline", Decline, expiry=_DAY_S)
ACTIVE = _device("active", ActiveModel, retain=True)
REPORT = _asks(_device("report", EvaluationReport, expiry=7 * _DAY_S), "receipt")
LOSSES = _device("losses", LossReport, expiry=_DAY_S)
ALERT = _device("alert", EveAlert, expiry=7 * _DAY_S)
OFFER = _device("offer", BlobOffer, expiry=_DAY_S)
CHUNK = _device("chunk", BlobChunk, expiry=_MINUTE_S)
FETCH = _asks(_device("fetch", BlobRequest, expiry=_MINUTE_S), "part")
TASK = _to_device("task", RoundTask, retain=True, expiry="deadline")
ASSIGNMENT = _to_device("assignment", Assignment, retain=True)
EVALUATION = _asks(_to_device("evaluation", EvaluationRequest, retain=False, expiry=60 * _MINUTE_S), "losses")
RECEIPT = _to_device("receipt", Receipt, retain=False, expiry=_DAY_S)
VERDICT = _to_device("verdict", Verdict, retain=False, expiry=_DAY_S)
PULL = _asks(_to_device("pull", BlobRequest, retain=False, expiry=_MINUTE_S), "chunk")
PART = _to_device("part", BlobChunk, retain=False, expiry=_MINUTE_S)
RELEASE = Topic("model", "model/{digest}", Release, "gateway", ("device", "harness"), 1, True)
RELEASE_OFFER = Topic("model-offer", "model/{digest}/offer", BlobOffer, "gateway", ("device", "harness"), 1, True)
MARKS = Topic("mark", "run/{run}/mark/{device}", MarkSet, "harness", ("device",), 1, True)
COMMAND = Topic("command", "run/{run}/command", RunCommand, "harness", ("device",), 1, False, 60 * _MINUTE_S)

TOPICS: tuple[Topic, ...] = (
    VERSIONS,
    GATEWAY_STATE,
    BIRTH,
    STATUS,
    TELEMETRY,
    SIGNATURE,
    UPDATE,
    DECLINE,
    ACTIVE,
    REPORT,
    LOSSES,
    ALERT,
    OFFER,
    CHUNK,
    FETCH,
    TASK,
    ASSIGNMENT,
    EVALUATION,
    RECEIPT,
    VERDICT,
    PULL,
    PART,
    RELEASE,
    RELEASE_OFFER,
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
    body = re.sub(r"\{(\w+)\}", lambda m: f"(?P<{m[1]}>{_SEGMENT[m[1]]})", topic.full)
    return re.compile(body)


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


def foreign_birth(text: str) -> tuple[int, str] | None:
    """Return contract major and device id of a birth in the tree of another major, ``None`` for any other topic."""
    match = re.fullmatch(rf"{ROOT.split('/', 1)[0]}/([0-9]{{1,3}})/device/({_SEGMENT['device']})/birth", text)
    if match is None or int(match[1]) == CONTRACT_MAJOR:
        return None
    return int(match[1]), match[2]


ANY_BIRTH = f"{ROOT.split('/', 1)[0]}/+/device/+/birth"
"""Births of all majors: the gateway says of a device that it cannot read why it takes no part."""
