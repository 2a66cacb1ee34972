"""Write the golden model and its decisions anew, or return the decisions (for the test).

The model is trained on the golden flows themselves (the scan is an attack, the rest is benign), so that some decisions
are alerts. What is pinned is the line from a capture's bytes to a decision, not the quality of a model.
"""

import json
from pathlib import Path

import numpy as np

from contract.initial import initial_theta
from contract.model import DEFAULT_SPEC, ModelId, weights_digest, weights_from_bytes, weights_to_bytes
from contract.taxonomy import CLASS_INDEX
from contract.transform import to_model_input
from device_agent.capture.applications import ScapyDissector
from device_agent.capture.source import open_source
from device_agent.detection.calibration import Calibration
from device_agent.detection.detector import Detector
from device_agent.flows.meter import FlowMeter
from device_agent.flows.records import FlowBatch
from device_agent.inference.numpy_engine import NumpyEngine
from device_agent.training.optimizer import OptimizerSettings
from device_agent.training.trainer import TrainData, TrainSettings, train
from tests.golden.regenerate import BASELINES, SCENARIOS, TRACES

THETA = Path(__file__).resolve().parent / "model.theta"
CALIBRATION = Calibration(threshold=0.5, err_reference=0.25, n_rows=100, flows_per_hour=60.0, budget_per_hour=1.0)


def flows(scenario):
    """Return the flow records of a stored capture."""
    source = open_source(str(TRACES / f"{scenario}.pcap"))
    meter, parts = FlowMeter(dissector=ScapyDissector()), []
    while (batch := source.read(256, 1.0)) is not None:
        parts.append(meter.feed(batch))
    source.close()
    return FlowBatch.concat([*parts, meter.flush()])


def theta():
    """Return the stored weights."""
    return weights_from_bytes(THETA.read_bytes(), n_parameters=DEFAULT_SPEC.n_parameters)


def decisions_text(scenario, engine, weights):
    """Return a line per flow: when it began, its score, and what was decided."""
    batch = flows(scenario)
    x, repaired = to_model_input(batch.features)
    assert repaired == 0
    model = ModelId(role="fallback", digest=weights_digest(weights))
    decision = Detector(engine, weights, model, CALIBRATION, None).judge(x)
    lines = [
        {
            "ts_start_us": int(batch.identity["ts_start_us"][row]),
            "score": round(float(decision.scores.score[row]), 6),
            "alerted": bool(decision.alerted[row]),
            "class": decision.attack_class(row),
        }
        for row in range(len(batch))
    ]
    return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)


def trained():
    """Return weights that tell the golden scan from the rest."""
    xs, ys = [], []
    for scenario in SCENARIOS:
        x, _ = to_model_input(flows(scenario).features)
        xs.append(x)
        ys.append(np.full(len(x), CLASS_INDEX["scan" if scenario == "syn_scan" else "benign"], dtype=np.int32))
    data = TrainData(np.concatenate(xs), np.concatenate(ys))
    settings = TrainSettings(epochs=60, recon_weight=1.0, seed=1, optimizer=OptimizerSettings(learning_rate=5e-3))
    return train(NumpyEngine(DEFAULT_SPEC.layout), initial_theta(DEFAULT_SPEC.layout, 1), data, settings).theta


def main():
    THETA.write_bytes(weights_to_bytes(trained()))
    engine = NumpyEngine(DEFAULT_SPEC.layout)
    for scenario in SCENARIOS:
        (BASELINES / f"{scenario}.decisions.jsonl").write_text(decisions_text(scenario, engine, theta()))


if __name__ == "__main__":
    main()
