"""CPU time of training and scoring: both engines, scikit-learn and Keras on the same rows; one thread each."""

import time
import warnings
from collections.abc import Callable

import numpy as np

from benchmarks.learning.equality import make_rows, raw_rows
from contract.initial import initial_theta
from contract.model import CLASSIFIER_SPEC, DEFAULT_SPEC
from contract.transform import to_model_input
from device_agent.inference.engine import Engine
from device_agent.inference.select import load_engine
from device_agent.training.optimizer import OptimizerSettings
from device_agent.training.trainer import TrainData, TrainSettings, train

ROWS = 10_000
BATCHES = (1, 64, 256, 1024)


def cpu_seconds(work: Callable[[], object], repeats: int) -> float:
    """Return the least CPU seconds of several runs; the least is what the machine's other work disturbs least."""
    best = float("inf")
    for _ in range(repeats):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best


def epochs(engines: list[Engine], *, repeats: int) -> dict[str, float]:
    """Return CPU seconds of one epoch of 10,000 rows, Adam, batches of 32.

    scikit-learn's MLP has no decoder, so the classifier alone stands beside it, with the same widths.
    """
    x, y = make_rows(DEFAULT_SPEC.layout, ROWS)
    theta = initial_theta(DEFAULT_SPEC, 1)
    settings = TrainSettings(epochs=1, recon_weight=0.5, optimizer=OptimizerSettings(learning_rate=1e-3))
    found = {engine.name: float("inf") for engine in engines}
    for _ in range(repeats):  # in turns, so that a busy moment of the machine meets all
        for engine in engines:
            seconds = cpu_seconds(lambda engine=engine: train(engine, theta, TrainData(x, y), settings), 1)
            found[engine.name] = min(found[engine.name], seconds)
    alone = load_engine(CLASSIFIER_SPEC).engine
    start = initial_theta(CLASSIFIER_SPEC, 1)
    found[f"{alone.name}_classifier"] = cpu_seconds(lambda: train(alone, start, TrainData(x, y), settings), repeats)
    try:
        from sklearn.neural_network import MLPClassifier
    except ImportError:
        return found
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = MLPClassifier(DEFAULT_SPEC.hidden, batch_size=32, solver="adam")
        net.partial_fit(x[:64], y[:64], classes=np.arange(DEFAULT_SPEC.classes))
        found["sklearn"] = cpu_seconds(lambda: net.partial_fit(x, y), repeats)
    return found


def scoring(engine: Engine, *, repeats: int) -> dict[str, float]:
    """Return rows a second of the engine and with the transform before it, by batch size."""
    rng = np.random.default_rng(2)
    theta = fixed_theta()
    found = {}
    for size in BATCHES:
        raw = raw_rows(rng, size)
        x, _ = to_model_input(raw)
        calls = max(20, 40_000 // size)
        for label, work in (
            ("engine", lambda x=x: engine.infer(theta, x)),
            ("with_transform", lambda raw=raw: engine.infer(theta, to_model_input(raw)[0])),
        ):
            seconds = cpu_seconds(lambda work=work, calls=calls: [work() for _ in range(calls)], repeats)
            found[f"{label}_batch_{size}"] = round(calls * size / seconds)
    return found


def single_flow_p99_us(engine: Engine, *, calls: int) -> float:
    """Return the 99th percentile of the CPU time of transform and scores of one flow, microseconds."""
    rng = np.random.default_rng(3)
    theta = fixed_theta()
    raw = raw_rows(rng, 256)
    took = np.empty(calls)
    for call in range(calls):
        row = raw[call % 256 : call % 256 + 1]
        began = time.thread_time()
        engine.infer(theta, to_model_input(row)[0])
        took[call] = time.thread_time() - began
    return float(np.percentile(took, 99) * 1e6)


def fixed_theta() -> np.ndarray:
    """Return weights that nobody writes, as those of a detector are: engines may keep what they derive from them."""
    theta = initial_theta(DEFAULT_SPEC, 1)
    theta.flags.writeable = False
    return theta
