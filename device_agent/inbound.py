"""Messages from the broker as events of the core. What does not decode is a counted refusal."""

from contract import CONTRACT_MAJOR, CONTRACT_VERSION, codec
from contract.errors import ContractError
from contract.messages import (
    Assignment,
    BlobChunk,
    BlobOffer,
    BlobRequest,
    EvaluationRequest,
    GatewayState,
    MarkSet,
    Receipt,
    Release,
    RoundTask,
    RunCommand,
    Verdict,
    Versions,
)
from contract.model import ModelSpec
from contract.topics import (
    ASSIGNMENT,
    COMMAND,
    EVALUATION,
    GATEWAY_STATE,
    PART,
    PULL,
    RECEIPT,
    RELEASE,
    ROOT,
    TASK,
    VERDICT,
    VERSIONS,
    parse,
)
from device_agent.events import (
    AssignmentReceived,
    CommandReceived,
    EvaluationAsked,
    Event,
    GatewaySeen,
    MarksReceived,
    ReceiptReceived,
    ReleaseReceived,
    TaskCleared,
    TaskReceived,
    VerdictReceived,
)
from device_agent.store.state import HeldModel
from device_agent.trust import Keyring, check_release


def own_topics(device_id: str, *, accept_marks: bool) -> tuple[str, ...]:
    """Return what a device subscribes to at every connect; model digests come and go."""
    topics = [topic.of(device=device_id) for topic in (TASK, ASSIGNMENT, EVALUATION, RECEIPT, VERDICT, PULL, PART)]
    if accept_marks:
        topics += [f"{ROOT}/run/+/mark/{device_id}", COMMAND.wildcard]
    return (VERSIONS.of(), GATEWAY_STATE.of(), *topics)


Transfer = BlobOffer | BlobRequest | BlobChunk
"""Messages about payloads in chunks; they are the post's and the pulls' business, not the core's."""


class Reader:
    """Turns messages into events.

    Parameters
    ----------
    spec, keyring
        For releases.

    Attributes
    ----------
    refused
        Messages that are none, by reason.
    staged
        Weights of releases that were verified and not yet taken, by digest.
    version_trouble
        Why this device and its gateway do not understand each other, empty if they do; for a person.
    """

    def __init__(self, spec: ModelSpec, keyring: Keyring) -> None:
        self.refused: dict[str, int] = {}
        self.version_trouble = ""
        self.staged: dict[str, HeldModel] = {}
        self._spec = spec
        self._keyring = keyring

    def read(self, topic: str, payload: bytes) -> Event | Transfer | None:
        """Return the event of a message, ``None`` if it says nothing or was refused."""
        try:
            return self._read(topic, payload)
        except ContractError as error:
            reason = f"message-{error.reason}"
            self.refused[reason] = self.refused.get(reason, 0) + 1
            return None

    def _read(self, topic: str, payload: bytes) -> Event | Transfer | None:  # noqa: C901, PLR0912  # one branch per message
        parsed = parse(topic)
        if not payload:
            return TaskCleared() if parsed.topic is TASK else None
        if parsed.topic is RELEASE:
            return self._release(str(parsed.digest), codec.decode(Release, payload))
        message = codec.decode(parsed.topic.message, payload)
        match message:
            case RoundTask():
                return TaskReceived(message)
            case Assignment():
                return self._assignment(message)
            case Receipt():
                return ReceiptReceived(message)
            case GatewayState():
                return GatewaySeen(message)
            case MarkSet():
                return MarksReceived(message)
            case RunCommand():
                return CommandReceived(message)
            case Verdict():
                return VerdictReceived(message)
            case BlobOffer() | BlobRequest() | BlobChunk():
                return message
            case EvaluationRequest():
                return EvaluationAsked(message)
            case Versions():
                self.version_trouble = _version_trouble(message)
                return None
            case _:
                return None

    def _assignment(self, assignment: Assignment) -> AssignmentReceived | None:
        refusal = None if assignment.epoch is None else self._keyring.verify_epoch(assignment.epoch)
        if refusal is None:
            return AssignmentReceived(assignment)
        reason = f"assignment-{refusal}"
        self.refused[reason] = self.refused.get(reason, 0) + 1
        return None

    def _release(self, digest: str, release: Release) -> ReleaseReceived:
        verdict = check_release(release, digest=digest, spec=self._spec, keyring=self._keyring)
        if verdict.weights is None:
            return ReleaseReceived(digest, None, verdict.refusal or "release-refused")
        verdict.weights.flags.writeable = False
        # The core takes or leaves it at once, so one place is enough.
        self.staged = {digest: HeldModel(release.manifest, verdict.weights)}
        return ReleaseReceived(digest, release.manifest)


def _version_trouble(versions: Versions) -> str:
    if CONTRACT_MAJOR in versions.majors:
        return ""
    spoken = ", ".join(str(major) for major in versions.majors)
    older = "this agent" if max(versions.majors) > CONTRACT_MAJOR else "the gateway"
    return (
        f"contract {CONTRACT_VERSION} is not understood by gateway {versions.gateway_version}, which speaks major "
        f"{spoken}; update {older}"
    )
