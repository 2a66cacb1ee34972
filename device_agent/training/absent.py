"""Classes that a device has never seen: training says nothing about them.

A device that trains a shared model on three of eight classes teaches it, step by step, that the other five do not
exist; the mean of many such devices forgets what each of them knew. So the loss is taken over the device's own classes:
the logits of the others are lowered by a constant while gradients are computed, which makes their probability, hence
their gradient, vanish. The weights themselves are not lowered, and the model detects with all its classes.
"""

import numpy as np
import numpy.typing as npt

from contract.layout import Layout

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]

LOWERED_BY = 30.0
"""Makes probabilities of 1e-13: gradients below what Adam divides by, which would scale small ones up again."""


def absent_offset(y: Labels, classes: int) -> Floats:
    """Return what is added to the logits while training.

    Parameters
    ----------
    y
        Labels; -1 is left out.
    classes
        K.

    Returns
    -------
    numpy.ndarray
        Shape ``(K,)``: 0 for classes with rows, ``-LOWERED_BY`` for the others. All 0 with fewer than two classes:
        over a single class there is nothing to tell apart, and its rows would teach nothing at all.
    """
    present = np.bincount(y[y >= 0], minlength=classes) > 0
    if present.sum() < 2:
        return np.zeros(classes, dtype=np.float32)
    return np.where(present, np.float32(0.0), np.float32(-LOWERED_BY))


def shifted(theta: Floats, offset: Floats, layout: Layout) -> Floats:
    """Return a copy of the weights with ``offset`` on the classifier's bias; ``theta`` itself if that changes nothing.

    Parameters
    ----------
    theta
        Shape ``(P,)``.
    offset
        Shape ``(K,)``.
    layout
        Of the model.
    """
    if not layout.classifies or not offset.any():
        return theta
    result = theta.copy()
    result[layout.slices()["classifier.bias"][0]] += offset
    return result
