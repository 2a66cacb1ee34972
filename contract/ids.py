"""Identifiers and their forms."""

from typing import Annotated

from pydantic import StringConstraints

DEVICE_ID_PATTERN = r"^[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?$"

DeviceId = Annotated[str, StringConstraints(pattern=DEVICE_ID_PATTERN)]
"""1 to 32 characters of ``a-z 0-9 -``, not starting or ending with ``-``; also the MQTT user name."""

FamilyId = Annotated[str, StringConstraints(pattern=r"^family-[0-9]{1,6}$")]
"""``family-<n>``; numbers are never reused by a gateway."""

RunId = Annotated[str, StringConstraints(pattern=DEVICE_ID_PATTERN)]
"""An experiment run."""

RoundId = Annotated[str, StringConstraints(pattern=r"^round-[0-9]{6}$")]
"""``round-<number with six digits>``."""

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 in lower-case hexadecimal."""


def round_id(number: int) -> str:
    """Return the id of round ``number`` (0 to 999,999).

    Raises
    ------
    ValueError
        If the number is out of range.
    """
    if not 0 <= number <= 999_999:
        raise ValueError(f"round number {number} is outside 0..999999")
    return f"round-{number:06d}"
