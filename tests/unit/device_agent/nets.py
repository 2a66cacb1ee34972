"""Small nets and rows for the tests of engines and training."""

from dataclasses import dataclass

import numpy as np

from contract.initial import initial_theta
from contract.layout import Layout
from contract.model import DEFAULT_SPEC

TINY = Layout(inputs=7, classes=4, hidden=(6, 5), train_batch=8)
DEEP = Layout(inputs=5, classes=3, hidden=(6, 5, 4), train_batch=8)
SHALLOW = Layout(inputs=5, classes=3, hidden=(4,), train_batch=8)
REAL = DEFAULT_SPEC.layout
CLASSIFIER = Layout(inputs=7, classes=4, hidden=(6, 5), train_batch=8, heads="classifier")
AUTOENCODER = Layout(inputs=7, classes=4, hidden=(6, 5), train_batch=8, heads="reconstruction")


@dataclass(frozen=True)
class Batch:
    theta: np.ndarray
    x: np.ndarray
    y: np.ndarray
    wc: np.ndarray
    wr: np.ndarray

    def args(self):
        return self.theta, self.x, self.y, self.wc, self.wr

    def rows(self, rows):
        return Batch(self.theta, self.x[rows], self.y[rows], self.wc[rows], self.wr[rows])


def batch(layout, n, seed=0):
    """Return weights with non-zero biases and rows with some unlabelled ones, row 0 among them."""
    rng = np.random.default_rng(seed)
    theta = initial_theta(layout, rng) + rng.normal(0, 0.05, layout.n_parameters).astype(np.float32)
    y = rng.integers(-1, layout.classes, n).astype(np.int32)
    y[:1] = -1
    wc, wr = rng.uniform(0.1, 2.0, (2, n)).astype(np.float32)
    return Batch(theta, rng.uniform(0, 3, (n, layout.inputs)).astype(np.float32), y, wc, wr)


def relative(value, reference):
    return float(np.abs(value - reference).max() / np.abs(reference).max())
