"""What MQTT 5 can be told about a publication: how long it is worth something, and where its answer goes.

All of it is in topic and payload as well, so that MQTT 3.1.1 loses nothing but comfort. An answer goes to the topic of
the table, whatever a request names.
"""

from dataclasses import dataclass
from math import ceil

from contract.messages import EvaluationReport, EvaluationRequest, LossReport, Message, ModelUpdate, Receipt, RoundTask
from contract.messages.transfer import BlobRequest
from contract.topics import Topic

LONGEST_CORRELATION_BYTES = 128
"""A longer one is not echoed."""


@dataclass(frozen=True, slots=True)
class Extras:
    """Properties of an MQTT 5 publication, each ``None`` if there is nothing to say.

    Attributes
    ----------
    expiry_s
        How long the broker keeps the message for readers that are away.
    response_topic
        Where the answer to a request goes.
    correlation
        What tells requests apart; the answer repeats it.
    """

    expiry_s: int | None = None
    response_topic: str | None = None
    correlation: bytes | None = None

    def properties(self) -> dict[str, int | str | bytes]:
        """Return the properties that are there, by their names in MQTT 5 without spaces (section 3.3.2.3)."""
        named = (
            ("MessageExpiryInterval", self.expiry_s),
            ("ResponseTopic", self.response_topic),
            ("CorrelationData", self.correlation),
        )
        return {name: value for name, value in named if value is not None}


NONE = Extras()


def correlation_of(properties: object) -> bytes | None:
    """Return the correlation among a request's properties; ``None`` without one (MQTT 3.1.1) or if it is too long."""
    data = getattr(properties, "CorrelationData", None)
    return bytes(data) if data is not None and len(data) <= LONGEST_CORRELATION_BYTES else None


def extras_of(row: Topic, topic: str, message: Message, *, echo: bytes | None = None) -> Extras:
    """Return what to say about a message.

    Parameters
    ----------
    row
        Of the topic table.
    topic
        Where it is published.
    message
        The message.
    echo
        Correlation of the request that it answers, if that had one.
    """
    expiry_s = row.expiry if isinstance(row.expiry, int) else None
    if isinstance(message, RoundTask):
        # A round that is over must not reach a device that comes back later.
        expiry_s = ceil(message.deadline_s)
    correlation = _correlation(message) if echo is None else echo
    return Extras(expiry_s, response_topic(row, topic), correlation)


def response_topic(row: Topic, topic: str) -> str | None:
    """Return where the answer to a message on ``topic`` goes, ``None`` if it has none."""
    return None if row.answer is None else f"{topic.rsplit('/', 1)[0]}/{row.answer}"


def _correlation(message: Message) -> bytes | None:
    match message:
        case BlobRequest():
            return f"{message.digest[:16]}/{message.wanted[0]}".encode()
        case ModelUpdate():
            return message.update_id.encode()
        case EvaluationReport():
            return f"report-{message.run_id}".encode()
        case Receipt():
            return message.key.encode()
        case EvaluationRequest() | LossReport():
            return str(message.request).encode()
        case _:
            return None
