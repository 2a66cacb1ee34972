"""Local training of many devices at once: the device's optimiser on stacked weights."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_agent.training.absent import absent_offset
from testbed.simulation.fleet import Share
from testbed.simulation.net import BatchedNet, Floats

Indices = npt.NDArray[np.int64]

_EPSILON = np.float32(1e-7)
_BETAS = (0.9, 0.999)


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """How a device trains.

    Attributes
    ----------
    learning_rate
        Of Adam, or of plain SGD.
    proximal_mu
        Pull to ``anchor``; 0 = none.
    adam
        Whether the device's Adam steps, else SGD without momentum.
    batch
        Rows of a step.
    mask_absent
        Whether the loss is taken over each device's own classes; hostile devices never do.
    """

    learning_rate: float = 0.01
    proximal_mu: float = 0.0
    adam: bool = True
    batch: int = 32
    mask_absent: bool = False


class Trainer:
    """Trains a fleet's devices on their own rows.

    Parameters
    ----------
    net
        The model.
    share
        Training rows.
    hostile
        Shape ``(n,)``: devices that do not keep to the protocol; none if ``None``.
    """

    def __init__(self, net: BatchedNet, share: Share, hostile: npt.NDArray[np.bool_] | None = None) -> None:
        self.net = net
        self.share = share
        self._rows = share.rows
        self._weights = share.weights(net.layout.classes)
        self._absent = np.stack([absent_offset(y, net.layout.classes) for y in share.y])
        if hostile is not None:
            self._absent[hostile] = 0.0

    def run(
        self,
        theta: Floats,
        devices: Indices,
        steps: int,
        settings: LocalSettings,
        rng: np.random.Generator,
        *,
        anchor: Floats | None = None,
        correction: Floats | None = None,
        trainable: npt.NDArray[np.bool_] | None = None,
    ) -> Floats:
        """Train and return new weights.

        Parameters
        ----------
        theta
            Shape ``(m, P)``: where each of ``devices`` starts; not written.
        devices
            Shape ``(m,)``: whose rows.
        steps
            Steps of each device.
        settings
            How.
        rng
            Draws the batches, with replacement.
        anchor
            Shape ``(m, P)``: of the proximal pull; the start if ``None``.
        correction
            Shape ``(m, P)``: added to every gradient.
        trainable
            Shape ``(P,)``: which weights may move; all if ``None``.
        """
        anchor = theta if anchor is None else anchor
        theta = theta.copy()
        first, second = np.zeros_like(theta), np.zeros_like(theta)
        offset = self._absent[devices] if settings.mask_absent else None
        rows = self._rows[devices]
        lines = devices[:, None]
        for step in range(1, steps + 1):
            pick = (rng.random((len(devices), settings.batch)) * rows[:, None]).astype(np.int64)
            x, y = self.share.x[lines, pick], self.share.y[lines, pick]
            grad = self.net.gradient(theta, x, y, self._weights[lines, pick], offset=offset)
            if settings.proximal_mu:
                grad += np.float32(settings.proximal_mu) * (theta - anchor)
            if correction is not None:
                grad += correction
            if trainable is not None:
                grad *= trainable
            if settings.adam:
                adam_step(theta, grad, first, second, step, settings.learning_rate)
            else:
                theta -= np.float32(settings.learning_rate) * grad
        return theta


def adam_step(theta: Floats, grad: Floats, first: Floats, second: Floats, step: int, learning_rate: float) -> None:
    """Do one step of the device's Adam in place on stacked weights, moments and gradients of shape ``(n, P)``."""
    b1, b2 = _BETAS
    first += (grad - first) * np.float32(1.0 - b1)
    second += (grad * grad - second) * np.float32(1.0 - b2)
    rate = learning_rate * np.sqrt(1.0 - b2**step) / (1.0 - b1**step)
    theta -= np.float32(rate) * first / (np.sqrt(second) + _EPSILON)
