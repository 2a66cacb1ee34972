"""Bytes of an update: raw float32, compressed, and as int8 deltas with error feedback; and what these cost in F1.

A generated fleet trains one model by federated averaging in this process, once for every form of the delta, with the
same rows, seeds and rounds. What the gateway would decode is what is averaged. Exam rows measure; they never train.
"""

import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from contract.canonical import sha256_hex
from contract.codec import encode
from contract.initial import initial_theta
from contract.messages import ModelUpdate
from contract.model import DEFAULT_SPEC
from contract.taxonomy import UNLABELLED
from contract.transform import to_model_input
from device_agent.capture.source import open_source
from device_agent.flows.records import FlowBatch
from device_agent.flows.select import make_meter
from device_agent.inference.numpy_engine import NumpyEngine
from device_agent.labels.marks import Marks, label_flows
from device_agent.training.optimizer import OptimizerSettings
from device_agent.training.trainer import TrainData, TrainSettings, train
from testbed.captures.loader import load_captures
from testbed.traffic.writer import generate

Vector = npt.NDArray[np.float32]
_ROUNDS = 12
_SEEDS = (7, 11, 13)
_DEVICES = 8
_MAX_ROWS = 1_500
_BLOCK = 256
"""Values that share a scale in the int8 form."""


def quantise(delta: Vector) -> tuple[bytes, Vector]:
    """Return the int8 form (a float32 scale for every block, then the values) and what it decodes to."""
    padded = np.zeros(-(-len(delta) // _BLOCK) * _BLOCK, dtype=np.float32)
    padded[: len(delta)] = delta
    blocks = padded.reshape(-1, _BLOCK)
    scale = np.maximum(np.abs(blocks).max(axis=1), np.float32(1e-12)) / np.float32(127)
    values = np.rint(blocks / scale[:, None]).astype(np.int8)
    decoded = (values.astype(np.float32) * scale[:, None]).reshape(-1)[: len(delta)]
    return scale.astype("<f4").tobytes() + values.reshape(-1)[: len(delta)].tobytes(), decoded


def shuffled(data: bytes, width: int) -> bytes:
    """Return the bytes with all first bytes of the values first, then all second ones: exponents compress."""
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, width).T.tobytes()


def as_float32(delta: Vector) -> tuple[bytes, Vector]:
    return delta.astype("<f4").tobytes(), delta


def as_float16(delta: Vector) -> tuple[bytes, Vector]:
    half = delta.astype("<f2")
    return half.tobytes(), half.astype(np.float32)


FORMS: dict[str, tuple[Callable[[Vector], tuple[bytes, Vector]], int, bool]] = {
    "float32": (as_float32, 4, False),
    "float16": (as_float16, 2, False),
    "int8": (quantise, 1, False),
    "int8 with error feedback": (quantise, 1, True),
}


def fleet_rows(seed: int) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.int32], npt.NDArray[np.bool_]]]:
    """Return model inputs, classes and which rows are exam, for every device of a generated fleet."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        generate(Path(name), seed, learn_s=900.0, exam_s=400.0, devices=_DEVICES)
        for capture in load_captures(Path(name)):
            meter, source, batches = make_meter(), open_source(str(capture.path)), []
            while (packets := source.read(8_192, 1.0)) is not None:
                batches.append(meter.feed(packets))
            batches.append(meter.flush())
            source.close()
            flows = FlowBatch.concat(batches)
            y = label_flows(flows.identity, marks=[Marks(capture.mark_set("bytes"))]).y
            x, _ = to_model_input(flows.features)
            exam = flows.identity["ts_start_us"] >= capture.exam_from_us
            known = y != UNLABELLED
            found.append((x[known], y[known], exam[known]))
    return found


def macro_f1(truth: npt.NDArray[np.int32], said: npt.NDArray[np.int64]) -> float:
    scores = []
    for label in np.unique(truth):
        hit = np.sum((truth == label) & (said == label))
        scores.append(2 * hit / max(1, np.sum(truth == label) + np.sum(said == label)))
    return float(np.mean(scores))


def run(form: str, rows: list, seed: int) -> dict[str, float]:
    """Train a fleet with one form of the delta; return F1 and mean bytes of an update."""
    encode_delta, width, feedback = FORMS[form]
    engine = NumpyEngine(DEFAULT_SPEC.layout)
    theta = initial_theta(DEFAULT_SPEC.layout, seed)
    residue = [np.zeros_like(theta) for _ in rows]
    sizes: dict[str, list[int]] = {"raw": [], "deflated": [], "message": []}
    for number in range(_ROUNDS):
        received, weights = [], []
        for device, (x, y, exam) in enumerate(rows):
            pick = np.random.default_rng([seed, number, device]).permutation(np.flatnonzero(~exam))[:_MAX_ROWS]
            settings = TrainSettings(epochs=2, seed=seed + number, optimizer=OptimizerSettings(learning_rate=0.008))
            result = train(engine, theta, TrainData(x[pick], y[pick]), settings)
            delta = result.theta - theta
            data, decoded = encode_delta(delta + residue[device] if feedback else delta)
            if feedback:
                residue[device] = delta + residue[device] - decoded
            sizes["raw"].append(len(data))
            sizes["deflated"].append(len(zlib.compress(shuffled(data, width), 6)))
            sizes["message"].append(len(encode(_update(data))))
            received.append(decoded)
            weights.append(np.sqrt(len(pick)))
        theta = (theta + np.average(received, axis=0, weights=weights)).astype(np.float32)
    scores = [macro_f1(y[exam], engine.infer(theta, x[exam]).probs.argmax(axis=1)) for x, y, exam in rows]
    return {"f1": float(np.mean(scores)), **{name: float(np.mean(values)) for name, values in sizes.items()}}


def measure() -> dict[str, object]:
    """Return bytes and F1 for every form, over seeds."""
    table: dict[str, list[dict[str, float]]] = {form: [] for form in FORMS}
    for seed in _SEEDS:
        rows = fleet_rows(seed)
        for form, results in table.items():
            results.append(run(form, rows, seed))
    base = np.array([r["f1"] for r in table["float32"]])
    float32_bytes = table["float32"][0]["raw"]
    forms = {}
    for form, results in table.items():
        scores = np.array([r["f1"] for r in results])
        forms[form] = {
            "delta_bytes": round(np.mean([r["raw"] for r in results])),
            "delta_bytes_deflated": round(np.mean([r["deflated"] for r in results])),
            "message_bytes": round(np.mean([r["message"] for r in results])),
            "of_float32": round(float(np.mean([r["raw"] for r in results])) / float32_bytes, 3),
            "of_float32_deflated": round(float(np.mean([r["deflated"] for r in results])) / float32_bytes, 3),
            "macro_f1": round(float(scores.mean()), 4),
            "macro_f1_minus_float32": [round(float(d), 4) for d in scores - base],
        }
    return {
        "parameters": DEFAULT_SPEC.n_parameters,
        "rounds": _ROUNDS,
        "devices": _DEVICES,
        "seeds": list(_SEEDS),
        "forms": forms,
    }


def _update(data: bytes) -> ModelUpdate:
    digest = sha256_hex(data)
    return ModelUpdate(
        update_id="round-000001-cam-1-fallback",
        round_id="round-000001",
        device_id="cam-1",
        role="fallback",
        spec_id=DEFAULT_SPEC.spec_id,
        base=digest,
        delta=data,
        delta_digest=digest,
        rows=_MAX_ROWS,
        rows_by_source={"mark": _MAX_ROWS},
        loss_before=1.0,
        loss_after=0.5,
        train_seconds=0.5,
    )
