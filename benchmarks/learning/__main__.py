"""``python -m benchmarks.learning [--quick]``: see the package."""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from benchmarks.learning import equality, footprint, processes, quality, quantised, speed
from contract.initial import initial_theta
from contract.model import DEFAULT_SPEC
from device_agent.inference.engine import Engine
from device_agent.inference.select import load_engine

PROJECT = Path(__file__).resolve().parents[2]
RESULT = PROJECT / "docs" / "results" / "learning.json"


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.learning")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, no peers that would have to be installed")
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("KINWATCH_DATA") or PROJECT.parent / "shared" / "data"
    )
    parser.add_argument("--only-quality", action="store_true", help="measure quality and int8; keep the other figures")
    options = parser.parse_args()
    repeats = 3 if options.quick else 7
    if options.only_quality:
        return renew_quality(Path(options.data), epochs=5 if options.quick else 20, repeats=repeats)
    engines = [load_engine(DEFAULT_SPEC, name).engine for name in ("litert", "numpy")]
    detecting = engines[1]

    print("equality")
    keras = ask_keras(quick=options.quick)
    equal = compare(engines, keras)
    print("footprint")
    sizes = footprint.measure(install=not options.quick)
    memory = processes.measure_agent(learn_s=1200.0 if options.quick else 2400.0).figures()
    print(json.dumps({"agent process": memory, **sizes}, indent=1))
    print("speed")
    epochs = speed.epochs(engines, repeats=repeats)
    if "epoch_s" in keras:
        epochs["keras_fit"] = float(keras["epoch_s"])
    scores = {engine.name: speed.scoring(engine, repeats=repeats) for engine in engines}
    p99 = {
        engine.name: speed.single_flow_p99_us(engine, calls=2_000 if options.quick else 20_000) for engine in engines
    }
    print(json.dumps({"epoch_cpu_s": epochs, "rows_per_s": scores, "single_flow_p99_us": p99}, indent=1))
    print("quality")
    tables, int8 = measure_quality(Path(options.data), epochs=5 if options.quick else 20, repeats=repeats)

    ours = [v for case in equal.values() for key, v in case.items() if not key.startswith("keras")]
    bars = {
        "equality_worst_relative": bar(max(v for case in equal.values() for v in case.values()), 1e-5, low=True),
        "equality_without_keras_worst_relative": bar(max(ours), 1e-5, low=True),
        "agent_detecting_mb": bar(memory["agent_detecting_rss_mb"], 70.0, low=True),
        "agent_training_mb": bar(memory["agent_training_rss_mb"], 90.0, low=True),
        "import_s": bar(sizes["agent"]["import_s"], 1.0, low=True),
        "scoring_rows_per_s_litert_batch_64": bar(scores["litert"]["engine_batch_64"], 1_500_000),
        "scoring_rows_per_s_of_the_detecting_engine_batch_64": bar(
            scores[detecting.name]["engine_batch_64"], 1_500_000
        ),
        "single_flow_p99_us": bar(round(p99[detecting.name], 1), 1_000.0, low=True),
        "epoch_beside_numpy": bar(round(epochs["numpy"] / epochs["litert"], 2), 1.0),
    }
    for name in ("litert", "numpy"):
        bars[f"scoring_rows_per_s_{name}_with_transform_batch_256"] = bar(
            scores[name]["with_transform_batch_256"], 1_500_000
        )
        bars[f"scoring_rows_per_s_{name}_with_transform_batch_64"] = bar(
            scores[name]["with_transform_batch_64"], 1_500_000
        )
    bars |= int8_bars(int8)
    if "installed_mb" in sizes["agent"]:
        bars["installed_mb"] = bar(sizes["agent"]["installed_mb"], 150.0, low=True)
    if "sklearn" in epochs:
        bars["epoch_of_the_classifier_beside_sklearn"] = bar(
            round(epochs["sklearn"] / epochs["litert_classifier"], 2), 3.0
        )
    if "keras_fit" in epochs:
        bars["epoch_beside_keras_fit"] = bar(round(epochs["keras_fit"] / epochs["litert"], 2), 10.0)
    result = {
        "name": "learning",
        "date": datetime.now(UTC).date().isoformat(),
        "quick": options.quick,
        "versions": versions(keras),
        "cpu": cpu(),
        "ratios": {name: b["value"] for name, b in bars.items() if name.startswith("epoch")},
        "bars": bars,
        "details": {
            "equality": equal,
            "footprint": {"agent_process": memory, **sizes},
            "epoch_cpu_s": epochs,
            "rows_per_s": scores,
            "single_flow_p99_us": p99,
            "quality": tables,
            "int8": int8 or "not measured: no interpreter with TensorFlow",
        },
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: result[key] for key in ("name", "ratios", "bars")}))
    return 0


def ask_keras(*, quick: bool) -> dict[str, np.ndarray]:
    """Return gradients, weights and the epoch time of Keras; empty where no interpreter has TensorFlow."""
    candidates = [os.environ.get("KINWATCH_CONVERT_PYTHON", ""), str(PROJECT / ".venv-convert" / "bin" / "python")]
    python = next((p for p in candidates if p and Path(p).exists()), None)
    if python is None:
        print(
            "  Keras is missing: name an interpreter with TensorFlow in KINWATCH_CONVERT_PYTHON or make .venv-convert"
        )
        return {}
    layout = DEFAULT_SPEC.layout
    shape = {"inputs": layout.inputs, "classes": layout.classes, "hidden": list(layout.hidden)}
    asked: dict[str, np.ndarray] = {"theta": initial_theta(layout, 3), "shape": np.array(json.dumps(shape))}
    cases = {}
    for name, case in equality.CASES.items():
        steps = equality.batches(layout, case)
        for number, step in enumerate(steps):
            asked |= {f"{name}/{number}/{part}": value for part, value in zip("xycr", step, strict=True)}
        settings = case.settings
        cases[name] = {
            "steps": len(steps), "kind": case.kind, "rate": settings.learning_rate, "mu": case.mu, "gamma": case.gamma,
            "clip": case.clip, "decay": case.decay, "recon": equality.RECON_WEIGHT,
        }  # fmt: skip
    asked["cases"] = np.array(json.dumps(cases))
    asked["x"], asked["y"] = equality.make_rows(layout, 2_000 if quick else speed.ROWS)
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder, "question.npz"), Path(folder, "answer.npz")
        np.savez(question, **asked)
        script = Path(__file__).with_name("keras_side.py")
        done = subprocess.run(
            [python, str(script), str(question), str(answer)], capture_output=True, text=True, timeout=900, check=False
        )
        if done.returncode:
            print(f"  Keras failed: {done.stderr.strip().splitlines()[-1:]}")
            return {}
        with np.load(answer) as kept:
            found = dict(kept)
    if quick:
        found["epoch_s"] = found["epoch_s"] * (speed.ROWS / 2_000)
    return found


def compare(engines: list[Engine], keras: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Return the largest relative differences by case and pair, of the first gradient and of the final weights."""
    found = {}
    for name, case in equality.CASES.items():
        runs = {engine.name: equality.run(engine, case) for engine in engines}
        runs["float64"] = equality.run_wide(DEFAULT_SPEC.layout, case)
        if f"{name}/gradients" in keras:
            gradients, weights = keras[f"{name}/gradients"], keras[f"{name}/weights"]
            runs["keras"] = (gradients[0], weights)
            replayed = equality.replay(DEFAULT_SPEC.layout, case, gradients)
            rounding = equality.relative(replayed, weights)
        found[name] = {}
        for other in [key for key in runs if key != "numpy"]:
            for number, what in enumerate(("gradient", "weights")):
                found[name][f"{other}_{what}"] = equality.relative(runs[other][number], runs["numpy"][number])
        if "keras" in runs:
            found[name]["keras_optimiser_on_its_gradients"] = rounding
        print("  " + f"{name:20}", {key: f"{value:.1e}" for key, value in found[name].items()})
    return found


def renew_quality(root: Path, *, epochs: int, repeats: int) -> int:
    """Measure the quality part again and put it into the file; the rest needs a quiet machine, this does not."""
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    tables, int8 = measure_quality(root, epochs=epochs, repeats=repeats)
    result["details"] |= {"quality": tables, "int8": int8}
    result["bars"] |= int8_bars(int8)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: result[key] for key in ("name", "ratios", "bars")}))
    return 0


def int8_bars(int8: dict[str, dict[str, float]]) -> dict[str, dict[str, object]]:
    found = {}
    for figure in ("class_macro_f1_lost_points", "alarm_macro_f1_lost_points") if int8 else ():
        found[f"int8_{figure}"] = bar(max(cost[figure] for cost in int8.values()), 1.0, low=True)
    return found


def measure_quality(
    root: Path, *, epochs: int, repeats: int
) -> tuple[dict[str, dict[str, object]], dict[str, dict[str, float]]]:
    """Return the figures of every table there is, and those of int8 for the tables of our own features."""
    tables: dict[str, dict[str, object]] = {}
    int8: dict[str, dict[str, float]] = {}
    for table in quality.load_tables(root):
        models = quality.measure(table, epochs=epochs)
        print_quality(table, models)
        tables[table.name] = {"split": table.split, "rows": quality.row_counts(table), "models": models}
        if table.name.startswith("MQTT"):
            tables[table.name]["parts_drawn_at_random"] = quality.mixed_in_time(table, epochs=epochs)
        cost = None
        if table.x.shape[1] == DEFAULT_SPEC.inputs:
            cost = quantised.measure(table, epochs=epochs, repeats=repeats)
        if cost is not None:
            int8[table.name] = cost
            print(f"    int8: {json.dumps(cost)}")
    return tables, int8


def print_quality(table: quality.Table, models: dict[str, dict[str, float]]) -> None:
    print(f"  {table.name}: {table.test.sum()} test rows, {(table.y[table.test] > 0).sum()} of attacks; {table.split}")
    for name, figures in models.items():
        print(f"    {name:24}", "  ".join(f"{key} {value:.3f}" for key, value in figures.items()))


def bar(value: float, limit: float, *, low: bool = False) -> dict[str, object]:
    return {"value": value, "bar": limit, "ok": bool(value <= limit if low else value >= limit)}


def versions(keras: dict[str, np.ndarray]) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("numpy", "ai-edge-litert", "scikit-learn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found | {"tensorflow": str(keras["version"]) if "version" in keras else "missing"}


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if sys.platform == "linux" else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, {os.cpu_count()} cores"


if __name__ == "__main__":
    raise SystemExit(main())
