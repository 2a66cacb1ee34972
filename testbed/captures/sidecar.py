"""The label sidecar ``x.labels.json`` beside a capture ``x.pcap``: ground truth in seconds from the first packet."""

import json
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from contract.ids import DeviceId
from contract.messages.truth import Address, ClassLabel, Port
from contract.taxonomy import BENIGN
from testbed.captures.errors import LabelsInputError

SUFFIX = ".labels.json"


class _Part(BaseModel):
    """Base of the sidecar's parts: frozen, an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LabelMark(_Part):
    """Flows that start in a window and fit the addresses carry the label; the first mark that fits wins.

    Attributes
    ----------
    start_s, end_s
        Window, seconds from the capture's first packet, both ends included.
    label
        Class name of the taxonomy.
    hosts
        One endpoint must be among them; empty = any.
    peers
        The other endpoint must be among them; empty = any.
    proto
        IP protocol number, ``None`` = any.
    ports
        One endpoint's port must be among them; empty = any.
    """

    start_s: float = Field(ge=0.0)
    end_s: float
    label: ClassLabel
    hosts: tuple[Address, ...] = Field(default=(), max_length=64)
    peers: tuple[Address, ...] = Field(default=(), max_length=64)
    proto: int | None = Field(default=None, ge=0, le=255)
    ports: tuple[Port, ...] = Field(default=(), max_length=64)

    @model_validator(mode="after")
    def _window_runs_forward(self) -> Self:
        if self.end_s < self.start_s:
            raise ValueError(f"a mark ends ({self.end_s} s) before it starts ({self.start_s} s)")
        return self


class GeneratorInfo(_Part):
    """What made a synthetic capture: the generator's name and its seed."""

    name: str = Field(max_length=128)
    seed: int = Field(ge=0)


class SourcePart(_Part):
    """One source capture inside a capture put together from several.

    Attributes
    ----------
    name
        Path of the source below the data folder.
    split
        Whether its packets are in the learn or the exam part.
    start_s, end_s
        Where its packets lie, seconds from the first packet of the whole.
    shift_s
        Seconds added to the packet times of the source.
    packets
        Packets taken from it.
    sha256
        Digest of the source file.
    """

    name: str = Field(max_length=256)
    split: Literal["learn", "exam"]
    start_s: float = Field(ge=0.0)
    end_s: float = Field(ge=0.0)
    shift_s: float
    packets: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class LabelSidecar(_Part):
    """Ground truth of one capture.

    Attributes
    ----------
    device_id
        The observed device.
    profile
        Kind of device.
    family
        Traffic family the profile was written for, for reports only; empty = unknown.
    exam_from_s
        Flows that start from here on are held out, seconds from the first packet.
    default_label
        Label of flows that no mark claims.
    marks
        Windows and rules of the attacks.
    generator
        Set for synthetic captures.
    sources
        Set for captures put together from others.
    """

    version: Literal[1]
    device_id: DeviceId
    profile: str = Field(max_length=64)
    family: str = Field(default="", max_length=64)
    exam_from_s: float = Field(ge=0.0)
    default_label: ClassLabel = BENIGN
    marks: tuple[LabelMark, ...] = Field(default=(), max_length=512)
    generator: GeneratorInfo | None = None
    sources: tuple[SourcePart, ...] = ()


def sidecar_path(capture: Path) -> Path:
    """Return where the labels of a capture lie: ``x.pcap`` and ``x.pcap.gz`` both have ``x.labels.json``."""
    name = capture.name.removesuffix(".gz")
    return capture.with_name(name.rsplit(".", 1)[0] + SUFFIX)


def write_sidecar(sidecar: LabelSidecar, capture: Path) -> Path:
    """Write the labels beside a capture; return their path."""
    path = sidecar_path(capture)
    document = sidecar.model_dump(mode="json", exclude_defaults=False)
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return path


def read_sidecar(capture: Path) -> LabelSidecar:
    """Read the labels beside a capture.

    Raises
    ------
    LabelsInputError
        The sidecar is missing, is no JSON or breaks the format; the message names file and field.
    """
    path = sidecar_path(capture)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LabelsInputError(f"{path}: cannot read the labels of {capture.name} ({error})") from error
    try:
        return LabelSidecar.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(step) for step in first["loc"]) or "document"
        raise LabelsInputError(f"{path}: {where}: {first['msg']}") from error
