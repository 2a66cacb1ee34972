"""Finished cells on the disk, so that a sweep that was stopped goes on where it was."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from testbed.simulation.measures import Figures

_PROGRAM = (
    "testbed/simulation",
    "gateway/aggregation",
    "gateway/clustering",
    "gateway/grouping.py",
    "device_agent/ladder.py",
    "device_agent/rungs.py",
    "device_agent/signature.py",
    "device_agent/training/absent.py",
)
"""What decides the figures of generated cells; what turns captures into rows shows in the rows' own digest."""


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """What a cell came to.

    Attributes
    ----------
    settings, runs
        As ``CellResult``.
    wall_s, cpu_s
        What it took, its tuning included; the CPU time is that of all processes.
    """

    settings: Mapping[str, Mapping[str, Any]]
    runs: Mapping[str, Sequence[Figures]]
    wall_s: float
    cpu_s: float


class Checkpoints:
    """A folder with a file for every finished cell.

    Parameters
    ----------
    folder
        Made if it is not there; ``None`` keeps nothing.
    program
        Digest of what computes: a cell of another program is not taken up.
    """

    def __init__(self, folder: Path | None, program: str) -> None:
        self._folder = folder
        self._program = program

    def load(self, cell: str, task: Mapping[str, Any]) -> Finished | None:
        """Return a finished cell, ``None`` if it is not there, is of other work, or cannot be read."""
        path = self._path(cell, task)
        if path is None or not path.is_file():
            return None
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            runs = {arm: [Figures(**one) for one in some] for arm, some in held["runs"].items()}
            return Finished(held["settings"], runs, float(held["wall_s"]), float(held["cpu_s"]))
        except (ValueError, TypeError, KeyError):
            return None

    def save(self, cell: str, task: Mapping[str, Any], finished: Finished) -> None:
        """Keep a finished cell; a file is there whole or not at all."""
        path = self._path(cell, task)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(finished)), encoding="utf-8")
        part.replace(path)

    def _path(self, cell: str, task: Mapping[str, Any]) -> Path | None:
        if self._folder is None:
            return None
        facts = json.dumps([self._program, cell, task], sort_keys=True)
        return self._folder / f"{hashlib.sha256(facts.encode()).hexdigest()[:24]}.json"


def program_digest(root: Path) -> str:
    """Return a digest of the source of everything that a sweep runs.

    Parameters
    ----------
    root
        Folder that holds the packages.
    """
    digest = hashlib.sha256()
    for part in _PROGRAM:
        for path in sorted((root / part).rglob("*.py")) or [root / part]:
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
