"""Everything about a run that moves, and where a run tells how it goes."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from testbed.broker import RunningBroker
from testbed.captures.loader import LabelledCapture
from testbed.demo_chaos import Phase
from testbed.demo_setup import DemoSettings, RunDir
from testbed.demo_view import FleetView
from testbed.feeder import Feeder


class Progress(Protocol):
    """Where a run tells how it goes."""

    def phase(self, text: str) -> None:
        """Say that a phase begins."""

    def note(self, text: str) -> None:
        """Say something a reader must know."""

    def tick(self, state: "RunState") -> None:
        """Show the current state; called about ten times a second."""


@dataclass(slots=True)
class RunState:
    """Everything about a run that moves.

    Attributes
    ----------
    phase
        ``start``, ``learn``, ``rounds``, ``exam`` or ``evaluate``.
    memory
        Device to the largest resident memory seen of its agent and of its trainer, bytes.
    """

    run_id: str
    settings: DemoSettings
    where: RunDir
    captures: list[LabelledCapture]
    broker: RunningBroker
    fleet: FleetView = field(default_factory=FleetView)
    feeders: dict[str, Feeder] = field(default_factory=dict)
    gates: dict[Literal["learn", "exam"], threading.Event] = field(
        default_factory=lambda: {"learn": threading.Event(), "exam": threading.Event()}
    )
    phase: Phase = "start"
    began_s: float = field(default_factory=time.monotonic)
    phases_s: dict[str, float] = field(default_factory=dict)
    memory: dict[str, tuple[int, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def device_ids(self) -> tuple[str, ...]:
        """Ids of the devices of the run."""
        return tuple(capture.device_id for capture in self.captures)

    def every(self, test: Callable[[str], bool]) -> bool:
        """Return whether a test holds for every device id."""
        return all(test(device_id) for device_id in self.device_ids)

    def missing(self, test: Callable[[str], bool]) -> str:
        """Return the devices for which a test does not hold."""
        return ", ".join(device_id for device_id in self.device_ids if not test(device_id))
