"""The same thirty steps on every engine: gradients at equal weights, and the weights afterwards.

More steps would compare rounding: one flipped ReLU unit, amplified by Adam, outweighs every formula. Imports NumPy and
the agent's engines only, so that it also runs under emulation.
"""

from dataclasses import dataclass, replace

import numpy as np

from contract.features import FEATURES, N_FEATURES
from contract.initial import initial_theta
from contract.layout import Layout
from device_agent.inference.engine import Engine
from device_agent.inference.numpy_engine import NumpyEngine
from device_agent.training.optimizer import Optimizer, OptimizerSettings
from device_agent.training.trainer import row_weights

STEPS = 30
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Case:
    """One loss and optimiser; ``masked`` leaves a part of the rows without labels."""

    kind: str = "sgd"
    mu: float = 0.0
    gamma: float = 0.0
    class_weights: bool = False
    masked: bool = False
    clip: float = 0.0
    decay: float = 0.0

    @property
    def settings(self) -> OptimizerSettings:
        return OptimizerSettings(
            kind=self.kind,
            learning_rate=0.05 if self.kind == "sgd" else 1e-3,
            proximal_mu=self.mu,
            clip_norm=self.clip,
            weight_decay=self.decay,
        )


CASES = {
    "sgd-momentum": Case(),
    "adam": Case("adam"),
    "fedprox": Case(mu=0.1),
    "class-weights": Case(class_weights=True),
    "focal": Case(gamma=2.0),
    "masked-two-headed": Case("adam", class_weights=True, masked=True),
    "clipped-decayed": Case("adam", clip=0.5, decay=0.02),
}
RECON_WEIGHT = 0.5


def make_rows(layout: Layout, n: int = 10_000, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Return synthetic model inputs with clusters per class, heavy tails and imbalance, and labels."""
    rng = np.random.default_rng(seed)
    shares = np.array([0.6, *np.full(layout.classes - 1, 0.4 / (layout.classes - 1))])
    y = rng.choice(layout.classes, n, p=shares).astype(np.int32)
    centres = rng.uniform(0.3, 2.2, (layout.classes, layout.inputs))
    x = centres[y] + rng.standard_t(4, (n, layout.inputs)) * 0.35
    x[:, :2] = 0.0
    return np.clip(x, 0.0, 3.0).astype(np.float32), y


def raw_rows(rng: np.random.Generator, n: int) -> np.ndarray:
    """Return features in the units of the schema, log-uniform below their ceilings."""
    ceilings = np.array([feature.ceiling for feature in FEATURES], dtype=np.float64)
    return np.expm1(rng.uniform(0.0, 1.0, (n, N_FEATURES)) * np.log1p(ceilings))


def batches(layout: Layout, case: Case) -> list[tuple[np.ndarray, ...]]:
    """Return the rows, labels and row weights of every step."""
    x, y = make_rows(layout, STEPS * layout.train_batch)
    if case.masked:
        y = np.where(np.random.default_rng(6).random(len(y)) < 0.5, -1, y).astype(np.int32)
    wc, wr = row_weights(y, layout.classes, cap=10.0 if case.class_weights else 1.0)
    size = layout.train_batch
    return [tuple(a[at : at + size] for a in (x, y, wc, wr)) for at in range(0, len(x), size)]


def run(engine: Engine, case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Return the first gradient and the weights after all steps."""
    layout = engine.layout
    optimizer = Optimizer(initial_theta(layout, 3), case.settings)
    first = np.zeros(0)
    for step in batches(layout, case):
        out = engine.gradient(optimizer.theta, *step, recon_weight=RECON_WEIGHT, gamma=case.gamma)
        first = first if len(first) else out.grad.copy()
        optimizer.step(out.grad)
    return first, optimizer.theta.copy()


def replay(layout: Layout, case: Case, gradients: np.ndarray) -> np.ndarray:
    """Return the weights that the agent's optimiser makes of gradients that somebody else computed.

    The loss of the other side holds the FedProx term already.
    """
    optimizer = Optimizer(initial_theta(layout, 3), replace(case.settings, proximal_mu=0.0))
    for gradient in gradients:
        optimizer.step(gradient)
    return optimizer.theta


def run_wide(layout: Layout, case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Return the same in float64, by an optimiser written down once more: who is off when two disagree."""
    engine, s = NumpyEngine(layout), case.settings
    anchor = initial_theta(layout, 3).astype(np.float64)
    theta, m, v, first = anchor.copy(), np.zeros_like(anchor), np.zeros_like(anchor), np.zeros(0)
    for number, (x, y, wc, wr) in enumerate(batches(layout, case), 1):
        wide = (x.astype(np.float64), y, wc.astype(np.float64), wr.astype(np.float64))
        grad = engine.gradient(theta.copy(), *wide, recon_weight=RECON_WEIGHT, gamma=case.gamma).grad
        first = first if len(first) else grad.copy()
        grad = grad + s.proximal_mu * (theta - anchor)
        norm = float(np.sqrt(grad @ grad))
        if s.clip_norm and norm > s.clip_norm:
            grad = grad * (s.clip_norm / norm)
        theta *= 1.0 - s.weight_decay * s.learning_rate
        if s.kind == "sgd":
            m = s.beta1 * m - s.learning_rate * grad
            theta += m
        else:
            m = s.beta1 * m + (1.0 - s.beta1) * grad
            v = s.beta2 * v + (1.0 - s.beta2) * grad * grad
            rate = s.learning_rate * np.sqrt(1.0 - s.beta2**number) / (1.0 - s.beta1**number)
            theta -= rate * m / (np.sqrt(v) + s.epsilon)
    return first, theta


def relative(value: np.ndarray, reference: np.ndarray) -> float:
    return float(np.abs(value - reference).max() / np.abs(reference).max())
