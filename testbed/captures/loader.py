"""Labelled captures of a folder: checked, and split into the learn and the exam part."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal

from contract.messages.truth import Coverage, MarkRule, MarkSet
from testbed.captures.errors import CaptureInputError, LabelsInputError
from testbed.captures.reader import US_PER_S, CaptureSummary, RawPacket, read_packets, summarise
from testbed.captures.sidecar import LabelSidecar, read_sidecar

Split = Literal["learn", "exam"]
_ENDINGS: Final = (".pcap", ".pcapng", ".cap", ".pcap.gz", ".pcapng.gz")


@dataclass(frozen=True, slots=True)
class LabelledCapture:
    """A capture with its ground truth.

    Parameters
    ----------
    path
        The capture file.
    labels
        Its sidecar.
    summary
        Its figures.
    """

    path: Path
    labels: LabelSidecar
    summary: CaptureSummary

    @property
    def device_id(self) -> str:
        """Return the observed device."""
        return self.labels.device_id

    @property
    def exam_from_us(self) -> int:
        """Return where the exam part begins, microseconds since the epoch."""
        return self.summary.first_us + round(self.labels.exam_from_s * US_PER_S)

    def packets(self, split: Split | None = None, *, shift_us: int = 0) -> Iterator[RawPacket]:
        """Yield the raw packets of one part, or of both.

        Parameters
        ----------
        split
            ``learn``: before ``exam_from_s``; ``exam``: from there on; None: all.
        shift_us
            Added to every packet time, microseconds; give the same to :meth:`mark_set`.

        Raises
        ------
        CaptureInputError
            The capture changed on disk and is damaged now.
        """
        for packet in read_packets(self.path):
            if split is None or (packet.ts_us >= self.exam_from_us) == (split == "exam"):
                yield packet._replace(ts_us=packet.ts_us + shift_us) if shift_us else packet

    def mark_set(self, run_id: str, *, shift_us: int = 0) -> MarkSet:
        """Return the ground truth as the message devices understand, in packet time.

        Parameters
        ----------
        run_id
            The experiment run it belongs to.
        shift_us
            Added to every time, microseconds.
        """
        origin_us = self.summary.first_us + shift_us
        exam_us = self.exam_from_us + shift_us
        default = self.labels.default_label
        rules = tuple(
            MarkRule(
                label=mark.label,
                start_us=origin_us + round(mark.start_s * US_PER_S),
                end_us=origin_us + round(mark.end_s * US_PER_S),
                hosts=mark.hosts,
                peers=mark.peers,
                proto=mark.proto,
                ports=mark.ports,
            )
            for mark in self.labels.marks
        )
        coverage = (
            Coverage(start_us=origin_us, end_us=max(origin_us, exam_us - 1), default_label=default, split="learn"),
            Coverage(
                start_us=exam_us,
                end_us=max(exam_us, self.summary.last_us + shift_us),
                default_label=default,
                split="exam",
            ),
        )
        return MarkSet(run_id=run_id, device_id=self.device_id, rules=rules, coverage=coverage)


def load_capture(path: Path) -> LabelledCapture:
    """Read one capture and its sidecar and check that they fit.

    Raises
    ------
    CaptureInputError
        The capture cannot be used or holds no packet.
    LabelsInputError
        The sidecar cannot be used or does not fit the capture.
    """
    labels = read_sidecar(path)
    summary = summarise(path)
    if not summary.packets:
        raise CaptureInputError(f"{path}: the capture holds no packet")
    length_s = (summary.last_us - summary.first_us) / US_PER_S
    if labels.exam_from_s > length_s:
        raise LabelsInputError(
            f"{path}: the exam part begins at {labels.exam_from_s:g} s but the capture ends at {length_s:.1f} s"
        )
    return LabelledCapture(path, labels, summary)


def load_captures(folder: Path) -> list[LabelledCapture]:
    """Read all labelled captures of a folder, sorted by device id.

    Raises
    ------
    CaptureInputError
        The folder is missing or holds no capture, or one capture cannot be used.
    LabelsInputError
        A sidecar is missing or wrong, or two captures name the same device.
    """
    if not folder.is_dir():
        raise CaptureInputError(f"{folder}: no such folder")
    paths = sorted(path for path in folder.iterdir() if path.name.endswith(_ENDINGS))
    if not paths:
        raise CaptureInputError(f"{folder}: no captures here (*.pcap, *.pcapng, also .gz)")
    captures = sorted((load_capture(path) for path in paths), key=lambda capture: capture.device_id)
    for before, after in pairwise(captures):
        if before.device_id == after.device_id:
            raise LabelsInputError(
                f"{after.path}: device {after.device_id} is also in {before.path.name}; one capture per device"
            )
    return captures
