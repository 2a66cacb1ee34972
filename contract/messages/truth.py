"""Ground truth of an experiment: marks that label flows, and commands of a run."""

from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from contract.ids import DeviceId, RunId
from contract.messages.base import Count, Message, Micros
from contract.taxonomy import CLASS_INDEX


def _known_class(name: str) -> str:
    if name not in CLASS_INDEX:
        raise ValueError(f"class {name!r} is not in the taxonomy ({', '.join(CLASS_INDEX)})")
    return name


def _address(text: str) -> str:
    return str(ip_address(text))


ClassLabel = Annotated[str, Field(max_length=32), AfterValidator(_known_class)]
Address = Annotated[str, Field(max_length=45), AfterValidator(_address)]
Port = Annotated[int, Field(ge=0, le=65_535)]


class MarkRule(Message):
    """Flows that start inside the window and fit the addresses carry the label.

    Attributes
    ----------
    label
        Class name.
    start_us, end_us
        Window in packet time, both ends included.
    hosts
        One endpoint must be among them; empty = any.
    peers
        The other endpoint must be among them; empty = any.
    proto
        IP protocol number, ``None`` = any.
    ports
        One endpoint's port must be among them; empty = any.
    """

    label: ClassLabel
    start_us: Micros
    end_us: Micros
    hosts: tuple[Address, ...] = Field(default=(), max_length=64)
    peers: tuple[Address, ...] = Field(default=(), max_length=64)
    proto: int | None = Field(default=None, ge=0, le=255)
    ports: tuple[Port, ...] = Field(default=(), max_length=64)

    @model_validator(mode="after")
    def _window_runs_forward(self) -> "MarkRule":
        if self.end_us < self.start_us:
            raise ValueError(f"mark ends ({self.end_us}) before it starts ({self.start_us})")
        return self


class Coverage(Message):
    """A stretch of packet time whose truth is known: what no rule claims carries the default label.

    Attributes
    ----------
    split
        ``learn``: rows may train; ``exam``: rows are held out and never train.
    """

    start_us: Micros
    end_us: Micros
    default_label: ClassLabel
    split: Literal["learn", "exam"]


class MarkSet(Message):
    """All ground truth of a run for one device; retained. The first rule that fits a flow wins."""

    run_id: RunId
    device_id: DeviceId
    rules: tuple[MarkRule, ...] = Field(default=(), max_length=512)
    coverage: tuple[Coverage, ...] = Field(default=(), max_length=512)


class Verdict(Message):
    """An operator's word on an alert; it goes to the device that raised it and counts more than any other label.

    Attributes
    ----------
    flow_id
        Of the alert.
    label
        What the flow is: the class of an attack, or ``benign`` for a false alarm.
    """

    device_id: DeviceId
    flow_id: Count
    label: ClassLabel


class RunCommand(Message):
    """A command of the test harness to the devices of a run.

    ``evaluate``: flush the flow meter and report on the exam rows. It is acted on once per ``sequence``.
    """

    run_id: RunId
    verb: Literal["evaluate"]
    sequence: int = Field(ge=0, le=2**31)
