"""Small tables under the column names that publishers use; the numbers are drawn."""

import csv
from pathlib import Path

import numpy as np

from contract.layout import Layout
from testbed.simulation.public import FILE, PUBLIC

FEATURES = 6
_ATTACKS = {"ciciot2023": "DDoS-SYN_Flood", "iot-23": "Malicious"}


def layout(inputs: int, classes: int) -> Layout:
    """Return a small architecture."""
    return Layout(inputs, classes, (8,), 16)


def write(name: str, folder: Path) -> None:
    """Write a set with two clients of 40 benign and 40 attack rows each."""
    spec = PUBLIC[name]
    rng = np.random.default_rng(1)
    benign, attack = max(spec.benign).title(), _ATTACKS.get(name, "scanning")
    for client in ("10.0.0.1", "10.0.0.2"):
        rows = []
        for label in (benign, attack):
            for values in rng.uniform(0.0, 1e4, (40, FEATURES)):
                row = {f"f{i}": f"{value:.3f}" for i, value in enumerate(values)}
                row |= dict.fromkeys(sorted(spec.drop), f"id-{client}")
                if spec.label != FILE:
                    row[spec.label] = label
                if spec.client != FILE:
                    row[spec.client] = client
                rows.append((label, row))
        _write(name, folder, client.replace(".", "-"), rows)


def _write(name: str, folder: Path, client: str, rows: list[tuple[str, dict[str, str]]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if name == "iot-23":
        path = folder / client / "conn.log.labeled"
        path.parent.mkdir()
        names = list(rows[0][1])
        lines = ["#separator \\x09", "#fields\t" + "\t".join(names)]
        lines += ["\t".join(row[n] for n in names) for _, row in rows]
        path.write_text("\n".join(lines) + "\n")
        return
    if name == "nbaiot":
        for label in sorted({label for label, _ in rows}):
            _table(folder / f"{client}.{label.lower()}.csv", [row for one, row in rows if one == label])
        return
    stem = {"edge-iiotset": f"DNN-EdgeIIoT-{client}", "ton-iot": f"Network_dataset_{client}"}.get(name, client)
    _table(folder / f"{stem}.csv", [row for _, row in rows])


def write_rows(name: str, folder: Path, client: str, file_name: str, rows: list[tuple[str, dict[str, str]]]) -> None:
    """Write rows of a client under a publisher's file name; sets with one file for all get one a client."""
    if name in {"iot-23", "nbaiot"}:
        _write(name, folder, client, rows)
        return
    folder.mkdir(parents=True, exist_ok=True)
    _table(folder / f"{Path(file_name).stem}{client}.csv", [row for _, row in rows])


def _table(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
