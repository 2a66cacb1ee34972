"""Finished runs on the disk: a sweep that was stopped goes on where it was, and one with more seeds adds them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from testbed.simulation.measures import Figures

_PROGRAM = (
    "testbed/simulation/arms",
    "testbed/simulation/bench.py",
    "testbed/simulation/fleet.py",
    "testbed/simulation/generator.py",
    "testbed/simulation/local.py",
    "testbed/simulation/measures.py",
    "testbed/simulation/net.py",
    "gateway/aggregation",
    "gateway/clustering",
    "gateway/grouping.py",
    "device_agent/ladder.py",
    "device_agent/rungs.py",
    "device_agent/signature.py",
    "device_agent/training/absent.py",
)
"""What decides the figures of generated cells; what turns captures into rows shows in the rows' own digest."""


class Checkpoints:
    """A file with a line for every finished run.

    Parameters
    ----------
    path
        The file; made if it is not there. ``None`` keeps nothing.
    program
        Digest of what computes: runs of another program are not taken up.
    """

    def __init__(self, path: Path | None, program: str) -> None:
        self._path = path
        self._program = program
        self._held: dict[str, tuple[Figures, float]] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path is not None and path.is_file() else ():
            try:  # the last line of a sweep that was killed may be torn
                one = json.loads(line)
                self._held[one["key"]] = (Figures(**one["figures"]), float(one["cpu_s"]))
            except (ValueError, TypeError, KeyError):
                continue

    def load(self, task: Mapping[str, Any]) -> tuple[Figures, float] | None:
        """Return figures and CPU seconds of a run, ``None`` if it is not there."""
        return self._held.get(self._key(task))

    def save(self, task: Mapping[str, Any], found: Figures, cpu_s: float) -> None:
        """Keep a run."""
        key = self._key(task)
        self._held[key] = (found, cpu_s)
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "figures": asdict(found), "cpu_s": cpu_s}) + "\n")

    def _key(self, task: Mapping[str, Any]) -> str:
        facts = json.dumps([self._program, task], sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()[:32]


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
