"""A simulated fleet: rows of every device, cut into train, validation and test, and what is known about the truth."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contract.layout import Layout
from device_agent.training.trainer import class_weights
from testbed.simulation.net import Floats, Labels

PADDING = -1
"""Label of rows that only fill the array of a device with fewer rows."""
_CLASS_WEIGHT_CAP = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """One share of the rows of all devices.

    Attributes
    ----------
    x
        Shape ``(n, m, D)``, float32 model inputs.
    y
        Shape ``(n, m)``, int32; ``PADDING`` beyond a device's rows.
    """

    x: Floats
    y: Labels

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """Rows of each device, shape ``(n,)``; they come first."""
        return np.asarray((self.y != PADDING).sum(axis=1))

    def weights(self, classes: int) -> Floats:
        """Return the class weight of every row, 0 for padding, shape ``(n, m)``; as the device's trainer does."""
        result = np.zeros(self.y.shape, dtype=np.float32)
        for i, labels in enumerate(self.y):
            by_class = class_weights(labels[labels != PADDING], classes, cap=_CLASS_WEIGHT_CAP)
            result[i] = np.where(labels != PADDING, by_class[np.maximum(labels, 0)], 0.0)
        return result


@dataclass(frozen=True, slots=True, eq=False)
class Fleet:
    """Devices, their rows and the truth about them.

    Attributes
    ----------
    layout
        Architecture of the model; class 0 is benign.
    train, validation, test
        Shares with the same class proportions on each device.
    family
        Shape ``(n,)``: true family, -1 for an outlier; all 0 where there is none.
    hostile
        Shape ``(n,)``: devices that attack the learning; they are left out of every figure.
    names
        Device ids.
    """

    layout: Layout
    train: Share
    validation: Share
    test: Share
    family: npt.NDArray[np.int64]
    hostile: npt.NDArray[np.bool_]
    names: tuple[str, ...]

    @property
    def n(self) -> int:
        """Number of devices."""
        return len(self.names)

    @property
    def outlier(self) -> npt.NDArray[np.bool_]:
        """Which devices are like nobody."""
        return self.family < 0


def pack(devices: list[tuple[Floats, Labels]]) -> Share:
    """Put rows of unequal number into one padded share."""
    longest = max(len(y) for _, y in devices)
    width = devices[0][0].shape[1]
    x = np.zeros((len(devices), longest, width), dtype=np.float32)
    labels = np.full((len(devices), longest), PADDING, dtype=np.int32)
    for i, (rows, y) in enumerate(devices):
        x[i, : len(y)] = rows
        labels[i, : len(y)] = y
    return Share(x, labels)
