"""Loaders for data sets that users fetch from their publishers; none of their rows is in this repository.

Files go below ``<data folder>/public/<name>``. Columns that identify a device, a host or a moment are dropped, since
each of them gives the label away somewhere. Values are squeezed by a fixed logarithm; text counts as 0.
"""

import csv
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from contract.layout import Layout
from contract.taxonomy import N_CLASSES
from testbed.simulation.errors import DataInputError
from testbed.simulation.real import Client, RealClients, squeeze

FILE = "<file>"
"""Client and class rule of sets without a column for them: the name of the file."""

_TOP = 1e8
_MAX_ROWS_PER_CLASS = 1_200
_MIN_CLIENT_ROWS = 60


@dataclass(frozen=True, slots=True)
class PublicSet:
    """How a published set is laid out.

    Attributes
    ----------
    title, publisher
        For people: what it is and where to get it.
    pattern
        Glob of its tables below its folder.
    label, benign
        Column of the class, and its benign values in lower case; ``FILE``: a part of the file name.
    client
        Column that tells clients apart; ``FILE``: the first part of the file name.
    drop
        Columns that are no features.
    """

    title: str
    publisher: str
    pattern: str
    label: str
    benign: frozenset[str]
    client: str
    drop: frozenset[str] = frozenset()


def _set(*names: str) -> frozenset[str]:
    return frozenset(names)


PUBLIC: dict[str, PublicSet] = {
    "nbaiot": PublicSet(
        "N-BaIoT",
        "UCI Machine Learning Repository, detection of IoT botnet attacks N-BaIoT; files <device>.<class>[.<kind>].csv",
        "*.csv",
        FILE,
        _set("benign"),
        FILE,
    ),
    "ciciot2023": PublicSet(
        "CICIoT2023",
        "Canadian Institute for Cybersecurity, CIC IoT Dataset 2023, CSV part",
        "*.csv",
        "label",
        _set("benigntraffic", "benign"),
        FILE,
    ),
    "edge-iiotset": PublicSet(
        "Edge-IIoTset",
        "IEEE DataPort, Edge-IIoTset, DNN-EdgeIIoT-dataset.csv",
        "DNN-EdgeIIoT*.csv",
        "Attack_type",
        _set("normal"),
        "ip.dst_host",
        _set("frame.time", "ip.src_host", "Attack_label", "tcp.srcport", "tcp.dstport", "udp.port", "tcp.payload"),
    ),
    "ton-iot": PublicSet(
        "TON_IoT",
        "UNSW Canberra, TON_IoT datasets, processed network part",
        "*etwork*.csv",
        "type",
        _set("normal"),
        "dst_ip",
        _set("ts", "src_ip", "src_port", "dst_port", "label"),
    ),
    "x-iiotid": PublicSet(
        "X-IIoTID",
        "IEEE DataPort, X-IIoTID, X-IIoTID dataset.csv",
        "*.csv",
        "class2",
        _set("normal"),
        "Des_IP",
        _set("Date", "Timestamp", "Scr_IP", "Scr_port", "Des_port", "class1", "class3"),
    ),
    "rt-iot2022": PublicSet(
        "RT-IoT2022",
        "UCI Machine Learning Repository, RT-IoT2022",
        "*.csv",
        "Attack_type",
        _set("mqtt_publish", "thing_speak", "wipro_bulb"),
        "service",
        _set("", "no", "id.orig_p", "id.resp_p"),
    ),
    "iot-23": PublicSet(
        "IoT-23",
        "Stratosphere Laboratory, IoT-23, conn.log.labeled of each capture below a folder of its name",
        "**/conn.log.labeled",
        "label",
        _set("benign", "-"),
        FILE,
        _set("ts", "uid", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p", "tunnel_parents", "detailed-label"),
    ),
}


def load_public(name: str, data: Path) -> RealClients:
    """Load a published set as clients.

    Parameters
    ----------
    name
        Key of ``PUBLIC``.
    data
        The data folder.

    Raises
    ------
    DataInputError
        If the set is unknown, its files are missing, or they lack a column.
    """
    if name not in PUBLIC:
        raise DataInputError(f"there is no data set {name!r}; there are {', '.join(PUBLIC)}")
    spec = PUBLIC[name]
    folder = data / "public" / name
    paths = sorted(folder.glob(spec.pattern)) if folder.is_dir() else []
    if not paths:
        raise DataInputError(
            f"{spec.title} is not here: put its files ({spec.pattern}) into {folder}; get them from {spec.publisher}"
        )
    rows: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    for path in paths:
        for client, label, values in _read(spec, path):
            held = rows[client][label]
            if len(held) < _MAX_ROWS_PER_CLASS:
                held.append(values)
    return _clients(spec, rows)


def _read(spec: PublicSet, path: Path) -> Iterator[tuple[str, str, list[float]]]:
    """Yield client, class (``benign`` for all benign ones) and numbers of every row."""
    parts = path.name.removesuffix(".csv").split(".")
    for row in _rows(path):
        for column in (spec.label, spec.client):
            if column not in {FILE, *row}:
                raise DataInputError(f"{path}: no column {column}; {spec.title} has it as its publisher offers it")
        label = ".".join(parts[1:]) if spec.label == FILE else str(row[spec.label]).strip()
        origin = path.parent.name if path.suffix == ".labeled" else parts[0]
        client = origin if spec.client == FILE else row[spec.client]
        dropped = spec.drop | {spec.label, spec.client}
        numbers = [_number(value) for column, value in row.items() if column not in dropped]
        yield str(client), "benign" if label.lower() in spec.benign else label, numbers


def _rows(path: Path) -> Iterator[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            if path.suffix == ".labeled":
                yield from _zeek_rows(file)
            else:
                yield from csv.DictReader(file)
    except (OSError, csv.Error) as error:
        raise DataInputError(f"{path}: cannot read the table ({error})") from error


def _zeek_rows(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """Yield rows of a Zeek log; the last three columns of IoT-23's are parted by blanks, not tabs."""
    names: list[str] = []
    for line in lines:
        if line.startswith("#fields"):
            names = line.split()[1:]
        elif not line.startswith("#") and names:
            yield dict(zip(names, line.split(), strict=False))


def _number(text: str | None) -> float:
    try:
        return float(text or 0.0)
    except ValueError:
        return 0.0


def _clients(spec: PublicSet, rows: dict[str, dict[str, list[list[float]]]]) -> RealClients:
    """Return the clients; classes are numbered by frequency, and those beyond the taxonomy's size share a number."""
    counts: Counter[str] = Counter()
    for by_class in rows.values():
        counts.update({label: len(held) for label, held in by_class.items() if label != "benign"})
    order = sorted(counts, key=lambda label: (-counts[label], label))
    number = {"benign": 0, **{label: min(i + 1, N_CLASSES - 1) for i, label in enumerate(order)}}
    clients = []
    for name, by_class in sorted(rows.items()):
        if sum(map(len, by_class.values())) < _MIN_CLIENT_ROWS:
            continue
        x = squeeze(np.array([values for label in sorted(by_class) for values in by_class[label]]), _TOP)
        y = np.array([number[label] for label in sorted(by_class) for _ in by_class[label]], dtype=np.int32)
        clients.append(Client(name, x, y))
    if len(clients) < 2:
        raise DataInputError(
            f"{spec.title}: fewer than two clients with {_MIN_CLIENT_ROWS} rows; the files are incomplete"
        )
    layout = Layout(clients[0].x.shape[1], max(number.values()) + 1, (32,), 32)
    return RealClients(spec.title, layout, tuple(clients))
