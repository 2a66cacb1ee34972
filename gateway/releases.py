"""Signed releases of models."""

from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from contract.messages import Epoch, Release
from contract.messages.delivery import epoch_bytes
from contract.model import ModelSpec, ReleaseManifest, weights_digest, weights_to_bytes


class SignsBytes(Protocol):
    """Something that signs."""

    key_id: str

    def sign(self, data: bytes) -> bytes:
        """Return an Ed25519 signature, 64 bytes."""
        ...


def make_release(
    theta: npt.NDArray[np.float32],
    spec: ModelSpec,
    signer: SignsBytes,
    *,
    role: Literal["fallback", "expert"],
    family_id: str | None,
    round_number: int,
    parent: str | None,
) -> Release:
    """Make the signed release of a weight vector.

    Parameters
    ----------
    theta
        Shape ``(P,)``, float32, finite.
    spec
        The architecture.
    signer
        Signs the manifest.
    role, family_id, round_number, parent
        As in the manifest.
    """
    manifest = ReleaseManifest(
        weights_digest=weights_digest(theta),
        spec_id=spec.spec_id,
        n_parameters=spec.n_parameters,
        role=role,
        family_id=family_id,
        round_number=round_number,
        parent=parent,
    )
    return Release(
        manifest=manifest,
        key_id=signer.key_id,
        signature=signer.sign(manifest.signed_bytes()),
        weights=weights_to_bytes(theta),
    )


def make_epoch(number: int, signer: SignsBytes) -> Epoch:
    """Return the signed epoch that goes into assignments."""
    return Epoch(number=number, key_id=signer.key_id, signature=signer.sign(epoch_bytes(number)).hex())
