"""The manifest of an int8 export: one release, quantised for scoring only."""

from pydantic import BaseModel, ConfigDict, Field

from contract.ids import Digest
from contract.model import ModelSpec


class ExportManifest(BaseModel):
    """What lies beside an int8 ``.tflite`` file.

    Unlike an artifact, the file holds weights: those of one release, which its digest names. Inputs are rows under the
    contract's fixed transform; outputs are logits and the reconstruction, in float32.

    Attributes
    ----------
    sha256, size_bytes
        Of the file; checked before it reaches a runtime.
    spec
        The architecture.
    weights_digest
        Id of the release whose weights are inside.
    representative
        Where the rows came from that the ranges were measured on.
    representative_rows
        How many.
    class_agreement
        Share of those rows for which int8 and float32 name the same class, of the rows where float32 prefers it by at
        least 0.05; 1 without a classifier.
    probability_error
        Largest difference of a probability on those rows; 0 without a classifier.
    reconstruction_error
        Mean absolute difference of the reconstruction error on those rows over its mean; 0 without a decoder.
    operators
        ``NAME/version`` of every operator, sorted.
    builder
        Versions of what built it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    sha256: Digest
    size_bytes: int = Field(ge=1, le=16_777_216)
    spec: ModelSpec
    weights_digest: Digest
    representative: str = Field(max_length=200)
    representative_rows: int = Field(ge=1)
    class_agreement: float = Field(ge=0.0, le=1.0)
    probability_error: float = Field(ge=0.0, le=1.0)
    reconstruction_error: float = Field(ge=0.0, allow_inf_nan=False)
    operators: tuple[str, ...] = Field(max_length=256, strict=False)
    builder: str = Field(max_length=200)
