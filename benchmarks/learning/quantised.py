"""What the int8 export costs and gains beside the float net of the same weights: size, speed, F1.

Ranges are measured on the training rows. Both nets are calibrated on their own scores of the same validation rows.
"""

import os
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.learning.quality import BUDGET_SHARE, Table, alarm_figures, class_figures, fit
from benchmarks.learning.speed import cpu_seconds
from contract.model import DEFAULT_SPEC
from device_agent.detection.calibration import calibrate
from device_agent.detection.detector import decide
from device_agent.inference.int8 import Int8Scorer, read_export
from device_agent.inference.select import load_artifact, load_engine
from gateway.conversion.export import build_export
from gateway.conversion.verify import ArtifactError

REPRESENTATIVE_ROWS = 2_000


def measure(table: Table, *, epochs: int, repeats: int) -> dict[str, float] | None:
    """Return the figures of one table, ``None`` where no interpreter has TensorFlow."""
    python = os.environ.get("KINWATCH_CONVERT_PYTHON")
    engine = load_engine(DEFAULT_SPEC).engine
    theta = fit(table, DEFAULT_SPEC.layout, table.train, table.y, epochs)
    rows = table.x[table.train]
    rows = rows[np.random.default_rng(1).permutation(len(rows))[:REPRESENTATIVE_ROWS]]
    with tempfile.TemporaryDirectory() as folder:
        try:
            path, _, _ = build_export(
                DEFAULT_SPEC, theta, rows, Path(folder), representative="training rows", python=python
            )
        except ArtifactError as error:
            print(f"    int8 is left out: {error}")
            return None
        manifest, blob = read_export(path)
    scorer = Int8Scorer(DEFAULT_SPEC.layout, blob)
    nets = {"float": lambda x: engine.infer(theta, x), "int8": scorer.infer}
    found: dict[str, float] = {
        "int8_bytes": len(blob),
        "float_artifact_bytes": len(load_artifact(DEFAULT_SPEC)),
        "float_weights_bytes": 4 * len(theta),
        "class_agreement": manifest.class_agreement,
        "reconstruction_error": round(manifest.reconstruction_error, 5),
    }
    for name, infer in nets.items():
        benign = table.x[table.validation & (table.y == 0)]
        calibration = calibrate(infer(benign), flows_per_hour=1.0 / BUDGET_SHARE, budget_per_hour=1.0)
        seen = infer(table.x[table.test])
        assert calibration is not None
        figures = alarm_figures(table, decide(seen, calibration).alerted) | class_figures(table, seen.probs)
        found |= {f"{name}_{key}": value for key, value in figures.items()}
        for size in (1, 64, 1024):
            x = np.ascontiguousarray(np.resize(table.x[table.test], (size, table.x.shape[1])))
            calls = max(20, 40_000 // size)
            seconds = cpu_seconds(lambda infer=infer, x=x, calls=calls: [infer(x) for _ in range(calls)], repeats)
            found[f"{name}_rows_per_s_batch_{size}"] = round(calls * size / seconds)
    for figure in ("class_macro_f1", "alarm_macro_f1"):
        lost = 100.0 * (found[f"float_{figure}"] - found[f"int8_{figure}"])
        found[f"{figure}_lost_points"] = round(lost, 2)
    return found
