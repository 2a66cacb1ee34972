"""The sample buffer: one pool each for training, validation and exam."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from contract.taxonomy import BENIGN_INDEX, UNLABELLED
from device_agent.labels.source import Source
from device_agent.samples.pool import EARLY_ROW, Pool, Rows
from device_agent.samples.split import Split, SplitSettings, assign_splits, block_numbers

_OPEN_ROWS = 512
"""Rows under open alerts that are kept for a verdict; beyond it the oldest are forgotten."""


@dataclass(frozen=True, slots=True)
class BufferSettings:
    """Bounds of the buffer.

    Attributes
    ----------
    train_rows, validation_rows, exam_rows
        Capacities.
    half_life_s
        Packet time after which a training or validation row is half as likely to stay.
    split
        How time is cut into training and validation.
    """

    train_rows: int = 12_000
    validation_rows: int = 4_000
    exam_rows: int = 20_000
    half_life_s: float = 6 * 3600.0
    split: SplitSettings = field(default_factory=SplitSettings)


@dataclass(frozen=True, slots=True, eq=False)
class Offered:
    """What became of offered rows, so that a store can follow.

    Attributes
    ----------
    split
        Shape ``(n,)``, uint8: :class:`~device_agent.samples.split.Split` of each row.
    admitted
        Shape ``(n,)``, bool: rows that are in the buffer now.
    evicted
        uint64 flow ids of rows that gave way, by split.
    refused
        Rows left out, by reason: ``open-alert``, ``full``.
    """

    split: npt.NDArray[np.uint8]
    admitted: npt.NDArray[np.bool_]
    evicted: dict[Split, npt.NDArray[np.uint64]]
    refused: dict[str, int]


class SampleBuffer:
    """Bounded rows for learning and judging.

    Exam rows never leave their pool for another one, and no row of an exam window enters one of the others.

    Parameters
    ----------
    inputs
        D.
    settings
        Bounds.
    seed
        Of the sampling.
    """

    def __init__(self, inputs: int, settings: BufferSettings, seed: int = 0) -> None:
        self.settings = settings
        self._rng = np.random.default_rng(seed)
        half_life_s = settings.half_life_s
        self._pools = {
            Split.TRAIN: Pool(settings.train_rows, inputs, half_life_s=half_life_s),
            Split.VALIDATION: Pool(settings.validation_rows, inputs, half_life_s=half_life_s),
            Split.EXAM: Pool(settings.exam_rows, inputs, half_life_s=None),
        }
        self._seen: dict[Split, Counter[int]] = {split: Counter() for split in Split}
        self._blocks: dict[int, int] = {}
        self._open: dict[int, Rows] = {}

    def offer(self, rows: Rows, exam: npt.NDArray[np.bool_], alerted: npt.NDArray[np.bool_]) -> Offered:
        """Offer rows.

        Parameters
        ----------
        rows
            Any number, already labelled.
        exam
            Shape ``(n,)``: rows of exam windows.
        alerted
            Shape ``(n,)``: rows that raised an alert nobody has judged. Those without a label and those of a baseline
            window wait for a verdict, so that an attack does not become part of what is normal.
        """
        split = assign_splits(rows.start_us, exam, self.settings.split)
        suspect = alerted & ((rows.y == UNLABELLED) | (rows.source == Source.BASELINE)) & ~exam
        self._wait_for_verdict(rows.select(suspect))
        admitted = np.zeros(len(rows), dtype=bool)
        evicted: dict[Split, npt.NDArray[np.uint64]] = {}
        for part, pool in self._pools.items():
            chosen = np.flatnonzero((split == part) & ~suspect)
            if len(chosen):
                new = rows.select(chosen)
                admitted[chosen], evicted[part] = pool.add(new, self._rng)
                self._seen[part].update(new.y.tolist())
        self._count_benign(rows, split)
        refused = {"open-alert": int(suspect.sum()), "full": int((~admitted & ~suspect).sum())}
        return Offered(split, admitted, evicted, {reason: n for reason, n in refused.items() if n})

    def restore(self, split: Split, rows: Rows) -> None:
        """Put back rows that a store kept over a restart; they count as seen, not as new traffic."""
        self._pools[split].add(rows, self._rng)
        self._seen[split].update(rows.y.tolist())

    def rows(self, split: Split) -> Rows:
        """Return the rows of one pool as copies."""
        return self._pools[split].rows()

    def counts(self, split: Split) -> dict[int, int]:
        """Return rows held per label."""
        return self._pools[split].counts()

    def seen(self, split: Split) -> dict[int, int]:
        """Return rows ever offered per label, for weighting what was sampled."""
        return dict(self._seen[split])

    def relabel(self, flow_id: int, label: int, source: int) -> bool:
        """Apply a verdict to the rows held of a flow, exam rows excepted; return whether there were any."""
        return any(self._pools[part].relabel(flow_id, label, source) for part in (Split.TRAIN, Split.VALIDATION))

    def take_open(self, flow_id: int, label: int) -> Rows | None:
        """Return the row that waited for a verdict on its alert, labelled by it; it is to be offered again.

        Of a flow that alerted early and again at its end, that is the later one.
        """
        row = self._open.pop(flow_id, None)
        if row is not None:
            row.y[:], row.source[:] = label, Source.VERDICT
        return row

    def _wait_for_verdict(self, rows: Rows) -> None:
        for number, flow_id in enumerate((rows.flow_id & ~EARLY_ROW).tolist()):
            self._open.pop(flow_id, None)
            self._open[flow_id] = rows.select(np.array([number]))
        while len(self._open) > _OPEN_ROWS:
            del self._open[next(iter(self._open))]

    def benign_flows_per_hour(self) -> float:
        """Return the rate of benign flows outside exam windows; 0 before the first.

        It is taken over the newest hour of blocks that had a benign flow. Idle blocks do not count: a busy rate makes
        the share of flows that may raise a false alarm smaller, which is the safe side.
        """
        if not self._blocks:
            return 0.0
        return sum(self._blocks.values()) * 3600.0 / (len(self._blocks) * self.settings.split.block_s)

    def _count_benign(self, rows: Rows, split: npt.NDArray[np.uint8]) -> None:
        benign = (rows.y == BENIGN_INDEX) & (split != Split.EXAM)
        numbers, counts = np.unique(block_numbers(rows.start_us[benign], self.settings.split), return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            self._blocks[number] = self._blocks.get(number, 0) + count
        excess = len(self._blocks) - 3600 // self.settings.split.block_s
        for number in sorted(self._blocks)[: max(0, excess)]:
            del self._blocks[number]
