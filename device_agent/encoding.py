"""The form in which a device sends what it learned, and what that form left out."""

import numpy as np
import numpy.typing as npt

from contract.messages import RoundTask, TrainTarget
from contract.quantise import decode_delta, encode_delta

Floats = npt.NDArray[np.float32]
_TARGETS = 4


class ErrorFeedback:
    """Encodes deltas; what rounding takes from one goes into the next of the same target, so that nothing is lost.

    It lives as long as the process: a restart loses one round's rounding. In private mode nothing is carried over, for
    the noise and the bound of an update belong to that update alone.
    """

    def __init__(self) -> None:
        self._left: dict[tuple[str, str | None], Floats] = {}

    def encode(self, task: RoundTask, target: TrainTarget, delta: Floats) -> bytes:
        """Return the bytes of a delta, shape ``(P,)``, in the form that the task wants."""
        if task.delta_encoding == "float32":
            return encode_delta(delta, "float32")
        key = (target.role, target.family_id)
        left = self._left.pop(key, None) if task.clip_norm is None else None
        wanted = delta if left is None or len(left) != len(delta) else delta + left
        data = encode_delta(wanted, task.delta_encoding)
        if task.clip_norm is None:
            self._left[key] = wanted - decode_delta(data, task.delta_encoding, n_parameters=len(delta))
            while len(self._left) > _TARGETS:
                self._left.pop(next(iter(self._left)))
        return data
