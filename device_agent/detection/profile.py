"""What benign traffic of this device looks like, for explaining alerts."""

from dataclasses import dataclass

import numpy as np

from contract.features import NAMES
from device_agent.inference.engine import Floats

_LEAST_SPREAD = 0.05
"""A constant feature would make any difference infinitely strange; the inputs span 0 to 3."""


@dataclass(frozen=True, slots=True)
class BenignProfile:
    """Mean and standard deviation of benign training rows under the contract's transform.

    Attributes
    ----------
    mean, std
        Shape ``(D,)``, float32.
    """

    mean: Floats
    std: Floats

    @classmethod
    def of(cls, x: Floats) -> "BenignProfile | None":
        """Return the profile of benign rows, shape ``(n, D)``; ``None`` of none."""
        return cls(x.mean(axis=0), x.std(axis=0)) if len(x) else None

    def top_features(self, row: Floats, count: int = 3) -> tuple[str, ...]:
        """Return the names of the ``count`` features of a row, shape ``(D,)``, farthest from the mean in deviations.

        Notes
        -----
        It names what is unusual about the flow, not what moved the model; that is cheap and mostly the same.
        """
        distance = np.abs(row - self.mean) / np.maximum(self.std, _LEAST_SPREAD)
        order = np.argsort(-distance, kind="stable")[:count]
        return tuple(NAMES[index] for index in order if distance[index] > 0.0)
