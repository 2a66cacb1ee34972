"""Model specs and the layout of their flat weight vector, artifacts and release manifests."""

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from contract.canonical import canonical_json, sha256_hex
from contract.errors import WeightsError
from contract.features import N_FEATURES, SCHEMA_ID
from contract.ids import Digest, FamilyId
from contract.layout import Heads, Layout
from contract.taxonomy import N_CLASSES, TAXONOMY_ID

Role = Literal["factory", "fallback", "expert", "fine-tuned", "local"]
"""What a model is for: shipped with the agent, global, of one family; fine-tuned and local stay on a device."""

MAX_PARAMETERS = 1_000_000


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ModelSpec(_Frozen):
    """Architecture of a net: encoder, classifier head, decoder; one of the heads may be missing.

    ``h = relu(encoder(x))``; ``class probabilities = softmax(h @ classifier)``;
    ``reconstruction = decoder(h)`` with ReLU between its layers. Dense layers only.

    Attributes
    ----------
    name, version
        Human name; the version changes with the architecture.
    schema_id, taxonomy_id
        Digests of what goes in and what comes out.
    inputs, classes
        D and K.
    hidden
        Widths of the encoder, outermost first; the decoder mirrors it.
    train_batch
        Static batch of the ``grad`` signature; a shorter batch is padded with rows of weight 0.
    heads
        Which heads the net has.
    """

    name: str = Field(pattern=r"^[a-z0-9-]{1,32}$")
    version: int = Field(ge=1, le=10_000)
    schema_id: Digest
    taxonomy_id: Digest
    inputs: int = Field(ge=1, le=4_096)
    classes: int = Field(ge=2, le=256)
    hidden: tuple[int, ...] = Field(min_length=1, max_length=4)
    train_batch: int = Field(ge=1, le=4_096)
    heads: Heads = "both"

    @property
    def spec_id(self) -> str:
        """Digest of the spec: two sides with different ids cannot exchange weights.

        Both heads are what a spec without the field means, so they are left out of the digest.
        """
        return sha256_hex(
            canonical_json(self.model_dump(mode="json", exclude={"heads"} if self.heads == "both" else None))
        )

    @property
    def layout(self) -> Layout:
        """The shape without ids; owns the layout of the flat weight vector."""
        return Layout(self.inputs, self.classes, self.hidden, self.train_batch, self.heads)

    def layers(self) -> tuple[tuple[str, int, int], ...]:
        """Return ``(name, fan in, fan out)`` of every dense layer in the order of the flat vector."""
        return self.layout.layers()

    @property
    def n_parameters(self) -> int:
        """Length P of the flat weight vector."""
        return self.layout.n_parameters

    def slices(self) -> dict[str, tuple[slice, tuple[int, ...]]]:
        """Return where each tensor lives in the flat vector; see :meth:`contract.layout.Layout.slices`."""
        return self.layout.slices()

    @model_validator(mode="after")
    def _not_too_big(self) -> "ModelSpec":
        if self.n_parameters > MAX_PARAMETERS:
            raise ValueError(f"{self.n_parameters} parameters are more than {MAX_PARAMETERS}")
        return self


DEFAULT_SPEC = ModelSpec(
    name="two-head",
    version=1,
    schema_id=SCHEMA_ID,
    taxonomy_id=TAXONOMY_ID,
    inputs=N_FEATURES,
    classes=N_CLASSES,
    hidden=(48, 24),
    train_batch=32,
)

CLASSIFIER_SPEC = ModelSpec(**{**DEFAULT_SPEC.model_dump(), "name": "classifier", "heads": "classifier"})
"""The default net without its decoder."""

AUTOENCODER_SPEC = ModelSpec(**{**DEFAULT_SPEC.model_dump(), "name": "autoencoder", "heads": "reconstruction"})
"""The default net without its classifier."""

BUILT_IN_SPECS = {spec.name: spec for spec in (DEFAULT_SPEC, CLASSIFIER_SPEC, AUTOENCODER_SPEC)}
"""Specs that can be built by name."""


class ArtifactManifest(_Frozen):
    """What lies beside a ``.tflite`` file: its digest and what it computes.

    Attributes
    ----------
    sha256, size_bytes
        Of the file; checked before it reaches a runtime, since old runtimes crash on damaged files.
    spec
        The architecture.
    operators
        ``NAME/version`` of every operator, sorted.
    builder
        Versions of what built it.
    """

    sha256: Digest
    size_bytes: int = Field(ge=1, le=16_777_216)
    spec: ModelSpec
    operators: tuple[str, ...] = Field(max_length=256)
    builder: str = Field(max_length=200)


class ReleaseManifest(_Frozen):
    """The signed statement about one set of weights.

    Attributes
    ----------
    weights_digest
        SHA-256 of the little-endian float32 vector; the id of the model.
    spec_id, n_parameters
        Which architecture the vector fits.
    role, family_id
        What the model is for; ``family_id`` is set for experts only.
    round_number
        The round that made it; 0 for the factory model.
    parent
        Digest of the model it was trained from; ``None`` for the first.
    """

    weights_digest: Digest
    spec_id: Digest
    n_parameters: int = Field(ge=1, le=MAX_PARAMETERS)
    role: Role
    family_id: FamilyId | None
    round_number: int = Field(ge=0, le=999_999)
    parent: Digest | None

    @model_validator(mode="after")
    def _family_belongs_to_experts(self) -> "ReleaseManifest":
        if (self.role == "expert") != (self.family_id is not None):
            raise ValueError("an expert has a family, and nothing else has one")
        return self

    def signed_bytes(self) -> bytes:
        """Return the canonical bytes that are signed: a context line and the manifest."""
        return b"kinwatch release v1\n" + canonical_json(self.model_dump(mode="json"))


def weights_digest(theta: npt.NDArray[np.float32]) -> str:
    """Return the digest (id) of a weight vector."""
    return sha256_hex(weights_to_bytes(theta))


def weights_to_bytes(theta: npt.NDArray[np.float32]) -> bytes:
    """Encode a flat float32 vector as little-endian bytes."""
    return theta.astype("<f4", copy=False).tobytes()


def weights_from_bytes(data: bytes, *, n_parameters: int) -> npt.NDArray[np.float32]:
    """Decode little-endian bytes to a flat float32 vector of its own memory.

    Parameters
    ----------
    data
        ``4 * n_parameters`` bytes.
    n_parameters
        Expected length P.

    Raises
    ------
    WeightsError
        If the length is off or a value is not finite.
    """
    if len(data) != 4 * n_parameters:
        raise WeightsError(f"weights have {len(data)} bytes, {4 * n_parameters} are expected", reason="weights-length")
    theta = np.frombuffer(data, dtype="<f4").astype(np.float32)
    if not np.isfinite(theta).all():
        raise WeightsError("weights hold values that are not finite", reason="weights-not-finite")
    return theta


class ModelId(_Frozen):
    """Which model somebody means: role, family and digest together.

    Attributes
    ----------
    role, family_id, digest
        As in the release manifest.
    """

    role: Role
    family_id: FamilyId | None = None
    digest: Digest


__all__ = [
    "AUTOENCODER_SPEC",
    "BUILT_IN_SPECS",
    "CLASSIFIER_SPEC",
    "DEFAULT_SPEC",
    "MAX_PARAMETERS",
    "ArtifactManifest",
    "ModelId",
    "ModelSpec",
    "ReleaseManifest",
    "Role",
    "weights_digest",
    "weights_from_bytes",
    "weights_to_bytes",
]
