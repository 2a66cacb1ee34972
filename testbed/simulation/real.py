"""Clients from recorded traffic: Kitsune's captures, IoT-23 captures, and MQTT testbeds through the product's meter.

Nothing is scaled by statistics of the data: every column goes through a fixed transform to the range of the contract.
Rows are cut by blocks of neighbours, class by class, so that the shares of a client have the same class proportions
and no row is tested beside the rows it was trained with.
"""

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from contract.features import N_FEATURES, SPAN
from contract.layout import Layout
from contract.taxonomy import CLASSES, UNLABELLED
from contract.transform import to_model_input
from device_agent.capture.source import open_source
from device_agent.flows.records import FlowBatch
from device_agent.flows.select import make_meter
from device_agent.labels.marks import Marks, label_flows
from testbed.captures.loader import LabelledCapture, load_captures
from testbed.captures.prepare import prepare_real
from testbed.simulation.errors import DataInputError
from testbed.simulation.fleet import Fleet, pack
from testbed.simulation.net import Floats, Labels

_BLOCKS = 24
_MIN_CLASS_ROWS = 12
_MAX_CLASS_ROWS = 1_200
_SHARES = (0.45, 0.25, 0.30)
_MIN_CLIENT_ROWS = 60
_AFTERIMAGE_FEATURES = 115
_AFTERIMAGE_TOP = 1e6
_BATCH_PACKETS = 8_192


@dataclass(frozen=True, slots=True, eq=False)
class Client:
    """Rows of one client in the order of their time.

    Attributes
    ----------
    name
        Client id.
    x, y
        Shapes ``(n, D)`` and ``(n,)``: model inputs in ``[0, SPAN]``, and classes; 0 is benign.
    """

    name: str
    x: Floats
    y: Labels


@dataclass(frozen=True, slots=True, eq=False)
class RealClients:
    """Clients in one feature space.

    Attributes
    ----------
    source
        What they come from; for tables and citations.
    layout
        Architecture of their model.
    clients
        At least two.
    """

    source: str
    layout: Layout
    clients: tuple[Client, ...]


def real_fleet(real: RealClients, seed: int) -> Fleet:
    """Cut the clients' rows into shares; the seed decides which blocks go where."""
    rng = np.random.default_rng([seed, 31])
    parts = [_cut(client, rng) for client in real.clients]
    train, validation, test = (pack([part[k] for part in parts]) for k in range(3))
    n = len(parts)
    names = tuple(client.name for client in real.clients)
    return Fleet(real.layout, train, validation, test, np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.bool_), names)


def digest_of(real: RealClients) -> str:
    """Return a digest of the rows of all clients."""
    digest = hashlib.sha256(repr(real.layout).encode())
    for client in real.clients:
        digest.update(client.name.encode())
        digest.update(client.x.tobytes())
        digest.update(client.y.tobytes())
    return digest.hexdigest()


def load_kitsune(data: Path) -> RealClients:
    """Load the eight balanced captures of Kitsune (Mirsky et al. 2018): one client each, benign and attack.

    Raises
    ------
    DataInputError
        If a table is missing or damaged.
    """
    folder = data / "csv" / "kitsune_balanced"
    clients = []
    for path in sorted(folder.glob("*_sampled.csv")):
        table = _numbers(path)
        # The table of Mirai has a packet index in front, which orders the attack.
        features, label = table[:, -_AFTERIMAGE_FEATURES - 1 : -1], table[:, -1]
        name = path.name.removesuffix("_sampled.csv").lower().replace(" ", "-")
        clients.append(Client(name, squeeze(features, _AFTERIMAGE_TOP), (label > 0.5).astype(np.int32)))
    if not clients:
        raise DataInputError(f"{folder}: no tables here (*_sampled.csv)")
    return RealClients("Kitsune, balanced samples", Layout(_AFTERIMAGE_FEATURES, 2, (32,), 32), tuple(clients))


def load_iot23(data: Path) -> RealClients:
    """Load the labelled Zeek tables of IoT-23: one client a capture; classes benign, C&C, DDoS, scan.

    Raises
    ------
    DataInputError
        If a table is missing or damaged.
    """
    folder = data / "csv" / "iot23"
    paths = sorted(folder.glob("*-labeled.csv"))
    if not paths:
        raise DataInputError(f"{folder}: no tables here (*-labeled.csv)")
    clients = tuple(_zeek_client(path) for path in paths)
    return RealClients("IoT-23, Zeek flows", Layout(clients[0].x.shape[1], 4, (32,), 32), clients)


def load_metered(data: Path, scratch: Path) -> RealClients:
    """Run the product's flow meter over AllKahra, MQTTset and IoT-23 8-1: one client a host.

    Parameters
    ----------
    data
        The data folder.
    scratch
        Folder for the prepared captures, outside any repository.

    Raises
    ------
    CaptureInputError, LabelsInputError
        If a capture or a label table is missing or damaged.
    """
    if not any(scratch.glob("*.pcap")):
        prepare_real(data, scratch)
    clients = []
    for capture in load_captures(scratch):
        x, y = _metered(capture)
        if len(y) >= _MIN_CLIENT_ROWS:
            clients.append(Client(capture.device_id, x, y))
    layout = Layout(N_FEATURES, len(CLASSES), (48, 24), 32)
    return RealClients("AllKahra, MQTTset, IoT-23 8-1 through the flow meter", layout, tuple(clients))


def squeeze(values: npt.NDArray[np.float64], top: float) -> Floats:
    """Map magnitudes to ``[0, SPAN]``: ``log1p`` of what is clipped at ``top``; not finite becomes 0."""
    clean = np.where(np.isfinite(values), np.abs(values), 0.0)
    squeezed: Floats = (np.log1p(np.minimum(clean, top)) * (SPAN / np.log1p(top))).astype(np.float32)
    return squeezed


def _cut(client: Client, rng: np.random.Generator) -> list[tuple[Floats, Labels]]:
    """Return train, validation and test rows; classes too rare to be in all three are left out."""
    chosen: list[list[npt.NDArray[np.int64]]] = [[], [], []]
    for label in np.unique(client.y):
        rows = np.flatnonzero(client.y == label)
        if len(rows) < _MIN_CLASS_ROWS:
            continue
        blocks = np.array_split(rows, min(_BLOCKS, len(rows)))
        order = rng.permutation(len(blocks))
        first, second = (round(edge * len(blocks)) for edge in np.cumsum(_SHARES)[:2])
        for k, some in enumerate((order[:first], order[first:second], order[second:])):
            picked = np.concatenate([blocks[i] for i in np.sort(some)])
            keep = round(_MAX_CLASS_ROWS * _SHARES[k])
            chosen[k].append(picked[:: max(1, -(-len(picked) // keep))])
    return [(client.x[np.concatenate(part)], client.y[np.concatenate(part)]) for part in chosen]


def _numbers(path: Path) -> npt.NDArray[np.float64]:
    try:
        table: npt.NDArray[np.float64] = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)
    except (OSError, ValueError) as error:
        raise DataInputError(f"{path}: cannot read the table ({error})") from error
    if table.shape[1] < _AFTERIMAGE_FEATURES + 1:
        raise DataInputError(
            f"{path}: {table.shape[1]} columns, {_AFTERIMAGE_FEATURES} features and a label are expected"
        )
    return table


_ZEEK_COUNTS = ("orig_bytes", "resp_bytes", "orig_pkts", "orig_ip_bytes", "resp_pkts", "resp_ip_bytes", "missed_bytes")
_ZEEK_STATES = ("S0", "S1", "SF", "REJ", "S2", "S3", "RSTO", "RSTR", "RSTOS0", "RSTRH", "SH", "SHR", "OTH")
_ZEEK_PROTOS = ("tcp", "udp", "icmp")
_ZEEK_TOP = 1e8


def _zeek_client(path: Path) -> Client:
    rows, labels = [], []
    for row in _dicts(path):
        counts = [float(row[name] or 0.0) for name in _ZEEK_COUNTS] + [1e6 * float(row["duration"] or 0.0)]
        flags = [float(row["proto"] == p) for p in _ZEEK_PROTOS] + [float(row["conn_state"] == s) for s in _ZEEK_STATES]
        rows.append([*counts, *flags])
        labels.append(_zeek_label(row))
    table = np.array(rows)
    n = len(_ZEEK_COUNTS) + 1
    x = np.concatenate([squeeze(table[:, :n], _ZEEK_TOP), table[:, n:].astype(np.float32)], axis=1)
    name = path.name.removeprefix("CTU-").removesuffix("-labeled.csv").lower()
    return Client(name, x, np.array(labels, dtype=np.int32))


def _zeek_label(row: dict[str, str]) -> int:
    if row["label"].strip().lower() == "benign":
        return 0
    detail = row["detailed-label"].lower()
    return 2 if "ddos" in detail else 3 if "scan" in detail else 1


def _dicts(path: Path) -> Iterator[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataInputError(f"{path}: cannot read the table ({error})") from error


def _metered(capture: LabelledCapture) -> tuple[Floats, Labels]:
    """Return model inputs and classes of a capture's flows, in the order in which they began."""
    meter = make_meter()
    source = open_source(str(capture.path))
    batches = []
    try:
        while (packets := source.read(_BATCH_PACKETS, 1.0)) is not None:
            batches.append(meter.feed(packets))
        batches.append(meter.flush())
    finally:
        source.close()
    flows = FlowBatch.concat(batches)
    flows = flows.select(np.argsort(flows.identity["ts_start_us"], kind="stable"))
    y = label_flows(flows.identity, marks=[Marks(capture.mark_set("simulation"))]).y
    x, _ = to_model_input(flows.features)
    return x[y != UNLABELLED], y[y != UNLABELLED]
