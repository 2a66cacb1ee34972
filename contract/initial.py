"""Where training starts: the initial weights of a model layout."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from contract.layout import Layout
    from contract.model import ModelSpec


def initial_theta(layout: "Layout | ModelSpec", seed: int | np.random.Generator) -> npt.NDArray[np.float32]:
    """Draw initial weights.

    Layers followed by a ReLU are He-uniform, ``U(-l, l)`` with ``l = sqrt(6 / fan in)``; the classifier and the last
    decoder layer, which are linear, have ``l = sqrt(6 / (fan in + fan out))``; biases are 0.

    Parameters
    ----------
    layout
        The architecture, or a spec that has it.
    seed
        A seed or a generator; the same seed gives the same vector on every machine.

    Returns
    -------
    numpy.ndarray
        Shape ``(P,)``, float32.
    """
    rng = np.random.default_rng(seed)
    theta = np.zeros(layout.n_parameters, dtype=np.float32)
    linear = {"classifier", f"decoder{len(layout.hidden) - 1}"}
    slices = layout.slices()
    for name, fan_in, fan_out in layout.layers():
        limit = np.sqrt(6.0 / (fan_in + fan_out if name in linear else fan_in))
        where, _ = slices[f"{name}.weight"]
        theta[where] = rng.uniform(-limit, limit, size=fan_in * fan_out)
    return theta
