"""Make labelled captures, one per host, from public data sets that the user has on disk.

All link headers are stripped (raw IP, link type 101), because in some sources the link type gives the class away.
Packets keep their order and distances inside a source; whole sources are shifted in time so that those of the learn
part come first and those of the exam part follow, with gaps longer than any flow timeout. The sidecar names every
source with its shift. Nothing is left out but frames without IP and packets of other hosts.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NamedTuple

from scapy.utils import RawPcapWriter

from testbed.captures.errors import CaptureInputError
from testbed.captures.link import RAW_IP, endpoints, ip_packet
from testbed.captures.reader import US_PER_S, read_packets
from testbed.captures.sidecar import LabelMark, LabelSidecar, SourcePart, write_sidecar
from testbed.captures.sources import LEARN_SHARE, HostPlan, Source, host_plans

DATA_VARIABLE: Final = "KINWATCH_DATA"
GAP_S: Final = 130.0
_MARGIN_S: Final = 0.001
_MANIFEST: Final = "MANIFEST.tsv"


class _IpPacket(NamedTuple):
    """A packet of a source without its link header."""

    ts_us: int
    wire_len: int
    data: bytes
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class PreparedHost:
    """What was written for one host.

    Parameters
    ----------
    path
        The capture.
    device_id
        The agent it is for.
    learn_packets, exam_packets
        Packets by class of the source's malicious endpoints: benign or the attack.
    """

    path: Path
    device_id: str
    learn_packets: Counter[str]
    exam_packets: Counter[str]


@dataclass(frozen=True, slots=True)
class _Piece:
    """The packets of one host in one source and part."""

    source: Source
    split: Literal["learn", "exam"]
    packets: list[_IpPacket]
    sha256: str


@dataclass(slots=True)
class _Library:
    """Source captures by name: read once, checked against the manifest when there is one."""

    root: Path
    _digests: dict[str, str] = field(default_factory=dict)
    _loaded: dict[str, tuple[list[_IpPacket], str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        manifest = self.root / _MANIFEST
        if manifest.is_file():
            rows = (line.split("\t") for line in manifest.read_text(encoding="utf-8").splitlines()[1:])
            self._digests = {row[0]: row[-1] for row in rows if len(row) > 1}

    def packets(self, name: str) -> tuple[list[_IpPacket], str]:
        """Return the IP packets of a source in time order, and the digest of its file."""
        if name not in self._loaded:
            path = self.root / name
            try:
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
            except OSError as error:
                raise CaptureInputError(f"{path}: cannot read the capture ({error.strerror})") from error
            if self._digests.get(name, digest) != digest:
                raise CaptureInputError(f"{path}: differs from the digest in {_MANIFEST}; fetch the file again")
            self._loaded[name] = (sorted(_stripped(path), key=lambda packet: packet.ts_us), digest)
        return self._loaded[name]


def _stripped(path: Path) -> Iterator[_IpPacket]:
    for packet in read_packets(path):
        data = ip_packet(packet.data, packet.linktype)
        if data is not None:
            header_bytes = len(packet.data) - len(data)
            yield _IpPacket(packet.ts_us, max(len(data), packet.wire_len - header_bytes), data, *endpoints(data))


def data_folder(given: Path | None) -> Path:
    """Return the data folder: the one given, else that of the environment variable KINWATCH_DATA.

    Raises
    ------
    CaptureInputError
        Neither is set, or the folder is missing.
    """
    text = os.environ.get(DATA_VARIABLE, "")
    folder = given if given is not None else Path(text) if text else None
    if folder is None:
        raise CaptureInputError(f"no data folder: give one or set {DATA_VARIABLE}")
    if not folder.is_dir():
        raise CaptureInputError(f"{folder}: no such data folder")
    return folder


def prepare_real(
    data_root: Path, out_dir: Path, *, on_written: Callable[[PreparedHost], None] | None = None
) -> list[PreparedHost]:
    """Write one labelled capture per host of AllKahra, MQTTset and IoT-23 8-1.

    Parameters
    ----------
    data_root
        Folder with the data sets; it is only read.
    out_dir
        Folder for the captures and sidecars; made when missing. It should lie outside any repository.
    on_written
        Called after each host, for progress.

    Raises
    ------
    CaptureInputError
        A source is missing, damaged or differs from the manifest, or a file cannot be written.
    LabelsInputError
        A label table is missing or wrong.
    """
    library = _Library(data_root)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CaptureInputError(f"{out_dir}: cannot make the folder ({error.strerror})") from error
    prepared = []
    for plan in host_plans(data_root):
        host = _prepare_host(plan, library, out_dir / f"{plan.device_id}.pcap")
        prepared.append(host)
        if on_written is not None:
            on_written(host)
    return prepared


def _prepare_host(plan: HostPlan, library: _Library, path: Path) -> PreparedHost:
    """Put one host's pieces one after the other and write them."""
    pieces = [piece for source in plan.sources for piece in _pieces(plan, source, library)]
    pieces.sort(key=lambda piece: (piece.split == "exam", piece.packets[0].ts_us))
    splits = {piece.split for piece in pieces}
    if splits != {"learn", "exam"}:
        raise CaptureInputError(f"{plan.device_id}: no packets for the {'exam' if 'learn' in splits else 'learn'} part")
    origin_us = pieces[0].packets[0].ts_us
    counts: dict[str, Counter[str]] = {"learn": Counter(), "exam": Counter()}
    marks, sources, exam_from_s, next_s = [], [], 0.0, 0.0
    try:
        writer = RawPcapWriter(str(path), linktype=RAW_IP, endianness="<")
        writer.write_header(None)
        for piece in pieces:
            if piece.split == "exam" and not exam_from_s:
                exam_from_s = next_s - GAP_S / 2
            shift_us = origin_us + round(next_s * US_PER_S) - piece.packets[0].ts_us
            part = _source_part(piece, origin_us, shift_us)
            sources.append(part)
            if piece.source.malicious:
                marks.append(_mark(piece.source, part))
            for packet in piece.packets:
                second, micro = divmod(packet.ts_us + shift_us, US_PER_S)
                writer.write_packet(packet.data, sec=second, usec=micro, wirelen=packet.wire_len)
                hostile = not {packet.source, packet.target}.isdisjoint(piece.source.malicious)
                counts[piece.split][piece.source.label if hostile else "benign"] += 1
            next_s = part.end_s + GAP_S
        writer.close()
        write_sidecar(
            LabelSidecar(
                version=1,
                device_id=plan.device_id,
                profile=plan.profile,
                exam_from_s=round(exam_from_s, 6),
                marks=tuple(marks),
                sources=tuple(sources),
            ),
            path,
        )
    except OSError as error:
        raise CaptureInputError(f"{path}: cannot write the capture ({error.strerror or error})") from error
    return PreparedHost(path, plan.device_id, counts["learn"], counts["exam"])


def _pieces(plan: HostPlan, source: Source, library: _Library) -> Iterator[_Piece]:
    """Yield the host's packets of a source, whole or cut in time; nothing when it is not in there."""
    everything, digest = library.packets(source.name)
    packets = [p for p in everything if p.source in plan.addresses or p.target in plan.addresses]
    if not packets:
        return
    if source.split is not None:
        yield _Piece(source, source.split, packets, digest)
        return
    cut_us = packets[0].ts_us + LEARN_SHARE * (packets[-1].ts_us - packets[0].ts_us)
    before = [packet for packet in packets if packet.ts_us <= cut_us]
    yield _Piece(source, "learn", before, digest)
    if len(before) < len(packets):
        yield _Piece(source, "exam", packets[len(before) :], digest)


def _source_part(piece: _Piece, origin_us: int, shift_us: int) -> SourcePart:
    """Return the sidecar's entry of one piece."""
    return SourcePart(
        name=piece.source.name,
        split=piece.split,
        start_s=(piece.packets[0].ts_us + shift_us - origin_us) / US_PER_S,
        end_s=(piece.packets[-1].ts_us + shift_us - origin_us) / US_PER_S,
        shift_s=shift_us / US_PER_S,
        packets=len(piece.packets),
        sha256=piece.sha256,
    )


def _mark(source: Source, part: SourcePart) -> LabelMark:
    """Return the mark of an attack source: its whole stretch, its malicious endpoints."""
    return LabelMark(
        start_s=round(max(0.0, part.start_s - _MARGIN_S), 6),
        end_s=round(part.end_s + _MARGIN_S, 6),
        label=source.label,
        hosts=source.malicious,
        proto=source.proto,
        ports=source.ports,
    )
