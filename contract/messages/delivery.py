"""Delivery: signed releases, what a device shall run, what it does run."""

from pydantic import Field

from contract.canonical import canonical_json
from contract.ids import DeviceId, Digest, FamilyId
from contract.messages.base import Count, Message, Real, Slug, Text
from contract.messages.learning import MAX_UPDATE_BYTES, ClassName
from contract.model import ModelId, ReleaseManifest


class Release(Message):
    """A signed set of weights; retained under its digest.

    Attributes
    ----------
    manifest
        What is signed.
    key_id
        First 16 hexadecimal digits of the SHA-256 of the raw public key.
    signature
        Ed25519 over ``manifest.signed_bytes()``.
    weights
        Little-endian float32; its SHA-256 stands in the manifest.
    """

    max_bytes = MAX_UPDATE_BYTES + 4_096

    manifest: ReleaseManifest
    key_id: str = Field(pattern=r"^[0-9a-f]{16}$")
    signature: bytes = Field(min_length=64, max_length=64)
    weights: bytes = Field(max_length=MAX_UPDATE_BYTES)


class Epoch(Message):
    """Which life of the gateway's store an assignment belongs to; versions start over with every life.

    Attributes
    ----------
    number
        When the store was made, or its epoch renewed, seconds since the epoch: a later life has a larger number.
    key_id, signature
        As in ``Release``, over ``signed_bytes()``; the signature in hexadecimal.
    """

    number: Count
    key_id: str = Field(pattern=r"^[0-9a-f]{16}$")
    signature: str = Field(pattern=r"^[0-9a-f]{128}$")

    def signed_bytes(self) -> bytes:
        """Return the canonical bytes that are signed: a context line and the number."""
        return epoch_bytes(self.number)


def epoch_bytes(number: int) -> bytes:
    """Return what is signed for an epoch."""
    return b"kinwatch epoch v1\n" + canonical_json({"number": number})


class Assignment(Message):
    """Which models a device shall hold (desired state); retained.

    Attributes
    ----------
    version
        Grows with every assignment of a device in an epoch; an older one is ignored.
    family_id
        The device's family, or ``None``: it fits none and the fallback serves it.
    reason
        Why, for a person.
    fallback, expert
        Models to hold; ``expert`` is ``None`` without a family or before its first round.
    anchor
        Frozen model at which the sketch of the signature is made; ``None`` during warm-up and in private mode.
    epoch
        Life of the gateway; a device takes a later one, whatever its version, if a key that it trusts signed it, and
        ignores an earlier one. ``None`` comes before all others.
    classes
        Attack classes that members of the family have seen, sorted; empty without a family.
    """

    device_id: DeviceId
    version: Count
    family_id: FamilyId | None
    reason: Text
    fallback: ModelId | None
    expert: ModelId | None
    anchor: Digest | None = None
    epoch: Epoch | None = None
    classes: tuple[ClassName, ...] = Field(default=(), max_length=64)


class ActiveModel(Message):
    """Which model a device uses (reported state); retained.

    Attributes
    ----------
    assignment_version
        The assignment that was followed.
    active
        The model in use; its role is the rung of the ladder: expert, fallback, fine-tuned or local.
    reason
        Slug of the decision, such as ``expert-default``, ``fine-tuned-better`` or ``local-kept``.
    gain, z
        Relative mean loss that the model in use saves on validation rows against the rung that it beat, and its paired
        z value; of the best rung that did not win if the default stayed; ``None`` when nothing was compared.
    threshold
        Score from which a flow raises an alert, in [0, 1].
    validation_rows
        Rows the decision rests on.
    """

    device_id: DeviceId
    assignment_version: Count
    active: ModelId
    reason: Slug
    gain: Real | None = None
    z: Real | None = None
    threshold: Real = Field(ge=0.0)
    validation_rows: Count = 0
