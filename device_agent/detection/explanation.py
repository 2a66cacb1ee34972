"""Which features drove a score: what the head that fired saw in them, from one backward pass on one row.

Both explanations come out of the gradient that training uses, so every engine has them. The gradient at the first
layer's bias is the one at its sums, and its weights carry it on to the inputs. The gradient of the reconstruction loss
at the decoder's last bias is the residual itself, up to a factor.
"""

import numpy as np
import numpy.typing as npt

from contract.features import NAMES
from contract.taxonomy import BENIGN_INDEX, UNLABELLED
from device_agent.inference.engine import Engine, Floats


def classifier_drivers(engine: Engine, theta: Floats, row: Floats, usual: Floats) -> npt.NDArray[np.float64]:
    """Return how much each feature pushed a row away from benign: gradient times deviation from the usual.

    The gradient is that of ``-log p(benign)``, which grows with the score and does not fade where the score nears 1.

    Parameters
    ----------
    engine
        With a classifier.
    theta
        Shape ``(P,)``.
    row, usual
        Shape ``(D,)``: the row, and the mean of the device's benign rows.

    Returns
    -------
    numpy.ndarray
        Shape ``(D,)``; above 0 = towards an attack.
    """
    slices = engine.layout.slices()
    grad = _one_row(engine, theta, row, BENIGN_INDEX)
    (weights, shape), (bias, _) = slices["encoder0.weight"], slices["encoder0.bias"]
    at_input = theta[weights].reshape(shape).astype(np.float64) @ grad[bias]
    return at_input * (row.astype(np.float64) - usual)


def reconstruction_drivers(engine: Engine, theta: Floats, row: Floats) -> npt.NDArray[np.float64]:
    """Return the squared reconstruction error of each feature of a row, shape ``(D,)``; they add up to ``D * err``."""
    names = list(engine.layout.slices())
    bias, _ = engine.layout.slices()[names[-1]]
    grad = _one_row(engine, theta, row, UNLABELLED)
    return np.square(grad[bias].astype(np.float64) * (engine.layout.inputs / 2.0))


def strongest(drivers: npt.NDArray[np.float64], count: int = 3) -> tuple[str, ...]:
    """Return the names of the ``count`` largest values above 0, largest first."""
    order = np.argsort(-drivers, kind="stable")[:count]
    return tuple(NAMES[index] for index in order.tolist() if drivers[index] > 0.0)


def _one_row(engine: Engine, theta: Floats, row: Floats, label: int) -> Floats:
    """Return the gradient of the class loss of a row with a label, or of the reconstruction loss of one without."""
    one, none = np.ones(1, dtype=np.float32), np.zeros(1, dtype=np.float32)
    y = np.array([label], dtype=np.int32)
    weights = (one, none) if label != UNLABELLED else (none, one)
    return engine.gradient(theta, row[None, :], y, *weights, recon_weight=1.0).grad
