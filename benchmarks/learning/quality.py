"""Detection quality on the shared data sets, by heads and by the share of rows that carry a label.

A share of the training rows keeps its label. The other benign rows are unlabelled and teach the reconstruction; the
other attack rows are left out, as the agent leaves out flows under open alerts. With 0 % the classifier has nothing to
learn. Thresholds allow 1 % of benign validation rows. A random forest (labelled rows) and an isolation forest (benign
rows) get the same rows and the same rule for the threshold.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from contract.initial import initial_theta
from contract.layout import Layout
from contract.model import DEFAULT_SPEC
from contract.taxonomy import CLASS_INDEX
from contract.transform import to_model_input
from device_agent.boards import Budgets
from device_agent.capture.applications import ScapyDissector
from device_agent.capture.source import open_source
from device_agent.detection.calibration import calibrate
from device_agent.detection.detector import decide
from device_agent.flows.meter import MeterSettings
from device_agent.flows.records import FlowBatch
from device_agent.flows.select import make_meter
from device_agent.inference.engine import Inference
from device_agent.inference.numpy_engine import NumpyEngine
from device_agent.training.optimizer import OptimizerSettings
from device_agent.training.trainer import TrainData, TrainSettings, train

SHARES = (1.0, 0.2, 0.05, 0.0)
BUDGET_SHARE = 0.01
_PREFIX_CLASS = {
    "benign": "benign",
    "bruteforce": "bruteforce",
    "c2": "c2_beacon",
    "flood": "dos_flood",
    "dos_flood": "dos_flood",
    "mqtt_abuse": "mqtt_abuse",
    "scan": "scan",
    "slow_dos": "slow_dos",
}
_ATTACKER, _COMPROMISED = "172.30.0.200", "172.30.0.13"
_IOT23_SERVERS = {"178.128.185.250", "128.185.250.50"}


@dataclass(frozen=True)
class Table:
    """Rows with labels; ``train`` and ``validation`` and ``test`` are masks."""

    name: str
    split: str
    x: np.ndarray
    y: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    classes: int


def load_tables(root: Path) -> list[Table]:
    """Return the data sets that are there."""
    found = []
    for load in (_iot23, _mqtt_testbed, _kitsune):
        try:
            found.append(load(root))
        except (FileNotFoundError, StopIteration) as error:
            print(f"  data set left out: {error}")
    return found


def measure(table: Table, *, epochs: int, seed: int = 0) -> dict[str, dict[str, float]]:
    """Return the figures of every model and share of labels on one table."""
    rng = np.random.default_rng(seed)
    found: dict[str, dict[str, float]] = {}
    for share in SHARES:
        labelled = rng.random(len(table.y)) < share
        y = np.where(labelled, table.y, np.where(table.y == 0, -1, -2)).astype(np.int32)
        rows = table.train & (y > -2)
        for heads in ("both", "classifier", "reconstruction"):
            if heads == "classifier" and not len(set(y[rows]) - {-1}):
                continue
            layout = Layout(table.x.shape[1], table.classes, DEFAULT_SPEC.hidden, 32, heads)
            found[f"{_NAMES[heads]} {share:.0%}"] = _net(table, layout, rows, y, epochs)
        found |= {f"{name} {share:.0%}": value for name, value in _forests(table, rows, y, seed).items()}
    return found


def row_counts(table: Table) -> dict[str, float]:
    """Return how many benign rows each part has, and how many test rows lie outside what training saw.

    The threshold cannot be finer than one validation row, and what training never saw is odd by definition.
    """
    benign = table.y == 0
    seen = table.x[benign & table.train]
    fresh = table.x[benign & table.test]
    outside = ((fresh < seen.min(axis=0) - 1e-6) | (fresh > seen.max(axis=0) + 1e-6)).any(axis=1)
    return {
        "benign_train": int((benign & table.train).sum()),
        "benign_validation": int((benign & table.validation).sum()),
        "benign_test": int((benign & table.test).sum()),
        "attack_test": int((~benign & table.test).sum()),
        "benign_test_outside_training_range": _share(outside),
    }


_NAMES = {"both": "two-headed", "classifier": "classifier", "reconstruction": "reconstruction"}


def fit(table: Table, layout: Layout, rows: np.ndarray, y: np.ndarray, epochs: int) -> np.ndarray:
    """Return the weights of a net trained on rows as a device does."""
    engine = NumpyEngine(layout)
    x, labels = table.x[rows], y[rows]
    keep = labels >= 0 if layout.heads == "classifier" else np.ones(len(labels), dtype=bool)
    steps = max(1_500, epochs * len(labels) // layout.train_batch)
    settings = TrainSettings(
        epochs=100, max_steps=steps, recon_weight=1.0, optimizer=OptimizerSettings(learning_rate=3e-3)
    )
    times = max(1, -(-640 // int(keep.sum())))
    data = TrainData(np.tile(x[keep], (times, 1)), np.tile(labels[keep], times))
    return train(engine, initial_theta(layout, 1), data, settings).theta


def _net(table: Table, layout: Layout, rows: np.ndarray, y: np.ndarray, epochs: int) -> dict[str, float]:
    engine = NumpyEngine(layout)
    theta = fit(table, layout, rows, y, epochs)
    met_attacks = bool((y[rows] > 0).any())

    def infer(mask: np.ndarray) -> Inference:
        seen = engine.infer(theta, table.x[mask])
        if not met_attacks:  # a classifier that never met an attack only adds noise
            seen.probs[:] = np.eye(layout.classes, dtype=np.float32)[0]
        return seen

    calibration = calibrate(
        infer(table.validation & (table.y == 0)), flows_per_hour=1.0 / BUDGET_SHARE, budget_per_hour=1.0
    )
    if calibration is None:
        return {}
    seen = infer(table.test)
    decision = decide(seen, calibration)
    figures = alarm_figures(table, decision.alerted)
    if layout.classifies and met_attacks:
        figures |= class_figures(table, seen.probs)
    return figures


def mixed_in_time(table: Table, *, epochs: int, share: float = 0.2, seeds: int = 5) -> dict[str, object]:
    """Return the false alarms of the two-headed net when parts are drawn at random instead of by time.

    Beside the same net on the split by time it tells drift between rounds from a threshold that is too coarse.
    """
    found = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        place = rng.permutation(len(table.y)) / len(table.y)
        mixed = replace(table, train=place < 0.5, validation=(place >= 0.5) & (place < 0.75), test=place >= 0.75)
        labelled = rng.random(len(table.y)) < share
        y = np.where(labelled, table.y, np.where(table.y == 0, -1, -2)).astype(np.int32)
        layout = Layout(table.x.shape[1], table.classes, DEFAULT_SPEC.hidden, 32, "both")
        found.append(_net(mixed, layout, mixed.train & (y > -2), y, epochs).get("false_alarm_share"))
    known = [value for value in found if value is not None]
    return {"labelled": share, "false_alarm_share": found, "mean": round(float(np.mean(known)), 4) if known else None}


def _forests(table: Table, rows: np.ndarray, y: np.ndarray, seed: int) -> dict[str, dict[str, float]]:
    try:
        from sklearn.ensemble import IsolationForest, RandomForestClassifier
    except ImportError:
        return {}
    found = {}
    benign_validation = table.validation & (table.y == 0)
    labelled = rows & (y >= 0)
    if (y[labelled] > 0).any() and (y[labelled] == 0).any():
        forest = RandomForestClassifier(100, random_state=seed, class_weight="balanced").fit(
            table.x[labelled], y[labelled]
        )
        probs = np.zeros((len(table.x), table.classes))
        probs[:, forest.classes_] = forest.predict_proba(table.x)
        score = 1.0 - probs[:, 0]
        found["random forest"] = alarm_figures(table, _above(score, benign_validation, table.test))
        found["random forest"] |= class_figures(table, probs[table.test])
    isolation = IsolationForest(n_estimators=100, random_state=seed).fit(table.x[rows & (table.y == 0)])
    score = -isolation.score_samples(table.x)
    found["isolation forest"] = alarm_figures(table, _above(score, benign_validation, table.test))
    return found


def _above(score: np.ndarray, benign: np.ndarray, test: np.ndarray) -> np.ndarray:
    ordered = np.sort(score[benign])[::-1]
    return score[test] > ordered[int(BUDGET_SHARE * len(ordered))]


def alarm_figures(table: Table, alerted: np.ndarray) -> dict[str, float]:
    attack = table.y[table.test] > 0
    return {
        "recall": _share(alerted[attack]),
        "false_alarm_share": _share(alerted[~attack]),
        "alarm_macro_f1": _macro_f1(attack.astype(int), alerted.astype(int), 2),
    }


def class_figures(table: Table, probs: np.ndarray) -> dict[str, float]:
    truth = table.y[table.test]
    p_attack = 1.0 - probs[:, 0]
    edges = np.clip((p_attack * 10).astype(int), 0, 9)
    gaps = [
        abs(p_attack[edges == b].mean() - (truth[edges == b] > 0).mean()) * (edges == b).mean()
        for b in range(10)
        if (edges == b).any()
    ]
    return {
        "class_macro_f1": _macro_f1(truth, probs.argmax(axis=1), table.classes),
        "calibration_error": round(float(sum(gaps)), 4),
    }


def _macro_f1(truth: np.ndarray, guess: np.ndarray, classes: int) -> float:
    values = []
    for k in range(classes):
        if (truth == k).any():
            hit = ((truth == k) & (guess == k)).sum()
            values.append(2 * hit / ((truth == k).sum() + (guess == k).sum()))
    return round(float(np.mean(values)), 4)


def _share(mask: np.ndarray) -> float:
    return round(float(mask.mean()), 4) if len(mask) else float("nan")


def flows_of(path: Path) -> FlowBatch:
    """Return the flow records of a capture as a device makes them, application payloads read within its budget."""
    settings = MeterSettings(dissect_pps=Budgets().dissect_pps)
    source, meter, parts = open_source(str(path)), make_meter(settings, dissector=ScapyDissector()), []
    while (batch := source.read(4_096, 1.0)) is not None:
        parts.append(meter.feed(batch))
    parts.append(meter.flush())
    source.close()
    return FlowBatch.concat(parts)


def _blocks(start_us: np.ndarray, block_s: float) -> np.ndarray:
    """Return which rows validate: every fourth block of time."""
    return (start_us // int(block_s * 1e6)) % 4 == 3


def _iot23(root: Path) -> Table:
    flows = flows_of(next((root / "pcap" / "iot23_8-1").glob("*.pcap")))
    start = flows.identity["ts_start_us"].astype(np.int64)
    bad = _touching(flows, lambda source, target: target in _IOT23_SERVERS or source in _IOT23_SERVERS)
    y = np.where(bad, CLASS_INDEX["c2_beacon"], 0).astype(np.int32)
    early = start < np.quantile(start, 0.6)
    validates = _blocks(start, 600.0) & early
    x, _ = to_model_input(flows.features)
    split = "first 60 % of the day trains (every fourth 10 minutes validates), the rest is the test"
    return Table("IoT-23 8-1", split, x, y, early & ~validates, validates, ~early, DEFAULT_SPEC.classes)


def _mqtt_testbed(root: Path) -> Table:
    folder = root / "pcap" / "allkahra"
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    parts = []
    for path in sorted(folder.glob("*/*.pcap")):
        number = int("".join(c for c in path.stem.rsplit("_", 1)[1] if c.isdigit()) or 0)
        if path.parent.name == "reforco_v7" or path.stat().st_size < 100:
            continue
        kind = path.stem.rsplit("_", 1)[0]
        flows = flows_of(path)
        if not len(flows):
            continue
        hot = {_ATTACKER} | ({_COMPROMISED} if kind in ("scan", "c2") else set())
        bad = _touching(flows, lambda source, target, hot=hot: source in hot or target in hot)
        label = CLASS_INDEX[_PREFIX_CLASS[kind]]
        y = np.where(bad & (label > 0), label, 0).astype(np.int32)
        parts.append((flows, y, np.full(len(y), number)))
    x, _ = to_model_input(FlowBatch.concat([flows for flows, _, _ in parts]).features)
    y = np.concatenate([y for _, y, _ in parts])
    rounds = np.concatenate([numbers for _, _, numbers in parts])
    test, validates = rounds >= 13, (rounds == 9) | (rounds == 4)
    split = "rounds 1-12 train (4 and 9 validate), rounds 13-15 are the test"
    return Table("MQTT testbed", split, x, y, ~test & ~validates, validates, test, DEFAULT_SPEC.classes)


def _kitsune(root: Path) -> Table:
    """Return the eight captures, 115 AfterImage features: another schema through the same engine."""
    folder = root / "csv" / "kitsune_balanced"
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    xs, ys, places = [], [], []
    for path in sorted(folder.glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))[1:]
        table = np.array([[float(v or 0.0) for v in row[-116:]] for row in rows])
        xs.append(table[:, :115])
        ys.append(table[:, 115].astype(np.int32))
        place = np.empty(len(table))
        for label in (0, 1):
            own = np.flatnonzero(table[:, 115] == label)
            place[own] = np.arange(len(own)) / len(own)
        places.append(place)
    place, y = np.concatenate(places), np.concatenate(ys)
    x = np.log1p(np.clip(np.abs(np.nan_to_num(np.concatenate(xs))), 0.0, 1e9))
    top = x[place < 0.7].max(axis=0)
    x = (3.0 * np.minimum(x / np.where(top > 0, top, 1.0), 1.0)).astype(np.float32)
    split = "of each capture and class the first 70 % of the rows as stored train (their last fifth validates)"
    validates = (place >= 0.55) & (place < 0.7)
    return Table("Kitsune, 8 captures", split, x, y, place < 0.55, validates, place >= 0.7, 2)


def _touching(flows: FlowBatch, rule: Callable[[str, str], bool]) -> np.ndarray:
    return np.array([rule(*flows.ip_text(row)) for row in range(len(flows))], dtype=bool)
