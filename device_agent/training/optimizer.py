"""Optimisers on the flat weight vector; their state lives here, in NumPy."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from device_agent.inference.engine import Floats

MAX_GRADIENT_NORM = 1e18
"""A norm that is not below this (also NaN and infinity) skips the step; squares of what passes fit float32."""
_SURELY_BELOW = np.float32(1e35)
"""A squared norm below this, also if it is a sum in float32, is that of a gradient below ``MAX_GRADIENT_NORM``."""

OptimizerKind = Literal["adam", "sgd"]


@dataclass(frozen=True, slots=True)
class OptimizerSettings:
    """Settings of one local training.

    Attributes
    ----------
    kind
        ``adam``, or ``sgd`` with momentum.
    learning_rate
        In ``(0, 1]``.
    beta1
        Decay of the first moment, and momentum of SGD; in ``[0, 1)``.
    beta2
        Decay of the second moment; in ``[0, 1)``.
    epsilon
        Added to the root of the second moment.
    proximal_mu
        FedProx pull to the starting point, 0 = off.
    clip_norm
        Largest global norm of a gradient, 0 = off.
    weight_decay
        Decoupled decay per step and unit of learning rate, 0 = off.

    Raises
    ------
    ValueError
        If a value is not finite or out of range: a NaN here would ruin weights although every gradient is fine.
    """

    kind: OptimizerKind = "adam"
    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-7
    proximal_mu: float = 0.0
    clip_norm: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in {"adam", "sgd"}:
            raise ValueError(f"optimizer {self.kind!r} is neither adam nor sgd")
        if not 0.0 < self.learning_rate <= 1.0:
            raise ValueError(f"learning_rate {self.learning_rate} is outside (0, 1]")
        for name in ("beta1", "beta2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} {getattr(self, name)} is outside [0, 1)")
        for name in ("proximal_mu", "clip_norm", "weight_decay"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} {getattr(self, name)} is outside [0, inf)")
        if not 0.0 < self.epsilon < 1.0:
            raise ValueError(f"epsilon {self.epsilon} is outside (0, 1)")


class Optimizer:
    """Steps a weight vector of its own.

    Parameters
    ----------
    theta0
        Shape ``(P,)``, float32; starting point and anchor of FedProx. It is copied, never written.
    settings
        What to do.

    Notes
    -----
    Order of one step: FedProx, guard, clipping, decoupled decay, then SGD with momentum
    (``m = b1 m - lr g; theta += m``) or Adam in the form of Keras 3.
    """

    def __init__(self, theta0: Floats, settings: OptimizerSettings) -> None:
        self._anchor = theta0
        self._settings = settings
        self._theta = theta0.astype(np.float32, copy=True)
        self._m = np.zeros_like(self._theta)
        self._v = np.zeros_like(self._theta) if settings.kind == "adam" else self._m
        self._spare = np.empty_like(self._theta), np.empty_like(self._theta)
        self.steps = 0
        self.skipped = 0

    @property
    def theta(self) -> Floats:
        """The current weights; changed in place by :meth:`step`."""
        return self._theta

    def moments(self) -> tuple[Floats, Floats]:
        """Return copies of the first and second moment; SGD has no second one."""
        return self._m.copy(), self._v.copy() if self._v is not self._m else np.zeros(0, dtype=np.float32)

    def restore(self, theta: Floats, moments: tuple[Floats, Floats], steps: int, skipped: int) -> None:
        """Go on where an optimiser with the same start and settings stood.

        Raises
        ------
        ValueError
            If a vector does not fit, or is not finite.
        """
        places = (self._theta, self._m, *(() if self._v is self._m else (self._v,)))
        values = (theta, *moments)[: len(places)]
        pairs = list(zip(places, values, strict=True))
        if any(place.shape != value.shape or not np.isfinite(value).all() for place, value in pairs):
            raise ValueError("the saved state of the optimiser does not fit")
        for place, value in pairs:
            place[:] = value
        self.steps, self.skipped = steps, skipped

    def step(self, grad: Floats) -> bool:
        """Apply one gradient.

        Parameters
        ----------
        grad
            Shape ``(P,)``, float32.

        Returns
        -------
        bool
            Whether a step was taken; ``False`` for a gradient that is not finite or absurdly long.
        """
        s = self._settings
        if s.proximal_mu:
            grad = grad + s.proximal_mu * (self._theta - self._anchor)
        with np.errstate(over="ignore"):
            square = np.dot(grad, grad)
        if s.clip_norm or not square < _SURELY_BELOW:
            wide = grad.astype(np.float64)  # the squares of a long but finite float32 gradient overflow
            norm = math.sqrt(float(np.dot(wide, wide)))
            if not norm < MAX_GRADIENT_NORM:
                self.skipped += 1
                return False
            if s.clip_norm and norm > s.clip_norm:
                grad = grad * np.float32(s.clip_norm / norm)
        if s.weight_decay:
            self._theta *= np.float32(1.0 - s.weight_decay * s.learning_rate)
        self.steps += 1
        if s.kind == "sgd":
            self._m *= np.float32(s.beta1)
            self._m -= np.multiply(grad, np.float32(s.learning_rate), out=self._spare[0])
            self._theta += self._m
        else:
            self._adam(grad)
        return True

    def _adam(self, grad: Floats) -> None:
        # m += (grad - m) (1 - b1);  v += (grad^2 - v) (1 - b2);  theta -= rate m / (sqrt(v) + eps)
        s, (change, divisor) = self._settings, self._spare
        np.subtract(grad, self._m, out=change)
        change *= np.float32(1.0 - s.beta1)
        self._m += change
        np.multiply(grad, grad, out=change)
        change -= self._v
        change *= np.float32(1.0 - s.beta2)
        self._v += change
        rate = s.learning_rate * math.sqrt(1.0 - s.beta2**self.steps) / (1.0 - s.beta1**self.steps)
        np.sqrt(self._v, out=divisor)
        divisor += np.float32(s.epsilon)
        np.multiply(self._m, np.float32(rate), out=change)
        change /= divisor
        self._theta -= change
