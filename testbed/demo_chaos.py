"""Kills at chosen points of a run: what a power cut or a crash does to an agent or the gateway."""

import re
from dataclasses import dataclass
from typing import Literal

from contract.exit_codes import ExitCode
from testbed.errors import HarnessError

DEFAULT = ("agent@learn", "gateway@round2", "agent@round3", "agent@exam")
DOWN_S = 1.0
Phase = Literal["start", "learn", "rounds", "exam", "evaluate"]


@dataclass(frozen=True, slots=True)
class Strike:
    """One kill.

    Attributes
    ----------
    target
        Name of the process.
    phase
        Phase in which it happens.
    after_round
        Rounds that must be complete before; 0 outside the phase ``rounds``.
    """

    target: str
    phase: Phase
    after_round: int = 0

    def due(self, phase: str, rounds_completed: int, *, traffic_flows: bool) -> bool:
        """Return whether now is the moment.

        Parameters
        ----------
        phase
            Current phase of the run.
        rounds_completed
            Rounds that released a model.
        traffic_flows
            Whether packets of the current part have been fed already.
        """
        if phase != self.phase:
            return False
        return rounds_completed >= self.after_round if phase == "rounds" else traffic_flows


def plan(points: tuple[str, ...], device_ids: tuple[str, ...]) -> list[Strike]:
    """Read points such as ``agent@learn``, ``cam-1@exam`` and ``gateway@round2``.

    Parameters
    ----------
    points
        ``<who>@<when>``: ``gateway``, a device id or ``agent`` (the first device); ``learn``, ``exam`` or
        ``round<n>``, which means right after round n.
    device_ids
        Devices of the run.

    Raises
    ------
    HarnessError
        If a point names nobody or no time.
    """
    strikes = []
    for point in points:
        match = re.fullmatch(r"(?P<who>[a-z0-9-]+)@(?:(?P<part>learn|exam)|round(?P<round>[0-9]{1,6}))", point)
        if match is None:
            raise HarnessError(f"--chaos {point}: give <who>@learn, <who>@exam or <who>@round<n>", code=ExitCode.USAGE)
        who = match["who"]
        device = device_ids[0] if who == "agent" else who
        if who != "gateway" and device not in device_ids:
            raise HarnessError(
                f"--chaos {point}: no device {who}; there are agent, gateway, {', '.join(device_ids)}",
                code=ExitCode.USAGE,
            )
        target = "gateway" if who == "gateway" else agent_name(device)
        if match["part"] == "learn":
            strikes.append(Strike(target, "learn"))
        elif match["part"] == "exam":
            strikes.append(Strike(target, "exam"))
        else:
            strikes.append(Strike(target, "rounds", int(match["round"])))
    return strikes


def agent_name(device_id: str) -> str:
    """Return the process name of a device's agent."""
    return f"agent {device_id}"
