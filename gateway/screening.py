"""What an update's bytes must fulfil before they count. No I/O."""

import numpy as np

from contract.canonical import sha256_hex
from contract.errors import WeightsError
from contract.messages import ModelUpdate
from contract.quantise import decode_delta


def content_refusal(
    update: ModelUpdate, *, device_id: str, spec_id: str, n_parameters: int, max_norm: float
) -> str | None:
    """Return why an update's content is refused, or ``None`` if it is fine.

    Parameters
    ----------
    update
        From a peer; anything may be in there.
    device_id
        Whose topic it came on.
    spec_id, n_parameters
        The model spec of this gateway and its length P.
    max_norm
        Longest delta that is believed (Euclidean).

    Returns
    -------
    str or None
        ``foreign-device``, ``wrong-spec``, ``no-rows``, ``delta-digest``, ``weights-length``, ``weights-scale``,
        ``weights-not-finite`` or ``norm-bound``.
    """
    if update.device_id != device_id:
        return "foreign-device"
    if update.spec_id != spec_id:
        return "wrong-spec"
    if update.rows == 0:
        return "no-rows"
    if sha256_hex(update.delta) != update.delta_digest:
        return "delta-digest"
    try:
        delta = decode_delta(update.delta, update.delta_encoding, n_parameters=n_parameters)
    except WeightsError as error:
        return error.reason
    norm = float(np.linalg.norm(delta.astype(np.float64)))
    return "norm-bound" if norm > max_norm else None
