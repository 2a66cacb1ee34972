"""What the sketches of signatures say: a second opinion on families, for people; nothing is decided by it.

A sketch is the direction in which a device's rows pull a common, frozen model. Members of a family should pull alike;
one that pulls against the others is worth a look: its labels may be wrong, or it means harm. Label skew moves
sketches as much as anything else does, which is why families are not made from them.
"""

from collections.abc import Mapping

import numpy as np

from gateway.grouping import Vector

_FEWEST = 3


def agreement(sketches: Mapping[str, tuple[str, Vector]], members: Mapping[str, frozenset[str]]) -> dict[str, float]:
    """Return how much each device's sketch points where those of the rest of its family do.

    Parameters
    ----------
    sketches
        Anchor and direction (length 1) by device.
    members
        Devices of each family.

    Returns
    -------
    dict
        Cosine in ``[-1, 1]`` by device; only for families with three sketches or more of the same anchor.
    """
    result: dict[str, float] = {}
    for devices in members.values():
        by_anchor: dict[str, list[str]] = {}
        for device_id in sorted(devices & sketches.keys()):
            by_anchor.setdefault(sketches[device_id][0], []).append(device_id)
        for alike in by_anchor.values():
            if len(alike) < _FEWEST:
                continue
            directions = np.stack([sketches[device_id][1] for device_id in alike])
            others = directions.sum(axis=0) - directions
            lengths = np.maximum(np.linalg.norm(others, axis=1), 1e-12)
            cosines = (directions * others).sum(axis=1) / lengths
            result |= {device_id: float(c) for device_id, c in zip(alike, cosines, strict=True)}
    return result
