"""Flow records as columns of plain values: who and when, then the features of the schema."""

from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from contract.features import FEATURES
from device_agent.flows.records import EndReason, FlowBatch, address_text

Kind = Literal["whole", "real", "text"]
Column = list[int] | list[float] | list[str]

_NOT_WHOLE = ("_mean", "_std", "_ratio")
_REASONS = {int(reason): reason.name.lower() for reason in EndReason}

IDENTITY_KINDS: dict[str, Kind] = {
    "flow_id": "whole",
    "ts_start_us": "whole",
    "ts_end_us": "whole",
    "src_ip": "text",
    "dst_ip": "text",
    "src_port": "whole",
    "dst_port": "whole",
    "proto": "whole",
    "vlan": "whole",
    "end_reason": "text",
    "part_index": "whole",
}
FEATURE_KINDS: dict[str, Kind] = {
    feature.name: "whole" if feature.unit in {"1", "B"} and not feature.name.endswith(_NOT_WHOLE) else "real"
    for feature in FEATURES
}
"""Counts and sizes are whole numbers, all else is real."""

KINDS: dict[str, Kind] = IDENTITY_KINDS | FEATURE_KINDS
COLUMNS = tuple(KINDS)
"""Column order of every format."""

_address = lru_cache(maxsize=4_096)(address_text)


def columns(batch: FlowBatch) -> list[Column]:
    """Return the columns of a batch, in the order of ``COLUMNS``, as plain values."""
    made: list[Column] = [_identity(batch.identity, name) for name in IDENTITY_KINDS]
    for values, kind in zip(batch.features.T, FEATURE_KINDS.values(), strict=True):
        made.append(values.astype(np.int64).tolist() if kind == "whole" else values.tolist())
    return made


def _identity(identity: npt.NDArray[np.void], name: str) -> Column:
    """Return one identity column."""
    if name in {"src_ip", "dst_ip"}:
        raw, versions = np.ascontiguousarray(identity[name]).tobytes(), identity["ip_version"].tolist()
        return [_address(raw[16 * i : 16 * i + 16], version) for i, version in enumerate(versions)]
    values: list[int] = identity[name].tolist()
    return [_REASONS[value] for value in values] if name == "end_reason" else values
