"""What an operator says about an alert: from a command to a verdict in the store, which the gateway then sends."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from contract.messages import Verdict
from contract.taxonomy import BENIGN, CLASS_INDEX
from gateway.errors import VerdictError
from gateway.store import Store

Judgement = Literal["confirm", "dismiss"]


@dataclass(frozen=True, slots=True)
class Statement:
    """What was typed.

    Attributes
    ----------
    device_id, flow_id
        Of the alert.
    judgement
        ``confirm`` an attack or ``dismiss`` a false alarm.
    label
        Class of a confirmed attack, ``None`` = the one that the alert names.
    """

    device_id: str
    flow_id: int
    judgement: Judgement
    label: str | None = None


def give_verdict(store_dir: Path, statement: Statement) -> Verdict:
    """Put a verdict into the store of a gateway, running or not.

    Returns
    -------
    Verdict
        As it will be sent.

    Raises
    ------
    VerdictError
        If there is no such alert, or no class for it.
    StoreError
        If the store is missing or does not take it.
    """
    store = Store(store_dir, read_only=True)
    try:
        alert = store.alerts.of_flow(statement.device_id, statement.flow_id)
    finally:
        store.close()
    if alert is None:
        raise VerdictError(
            f"{statement.device_id} has no alert on flow {statement.flow_id} here; see kinwatch-gateway alerts"
        )
    label = _label(statement, alert.kinwatch.attack_class)
    try:
        verdict = Verdict(device_id=statement.device_id, flow_id=statement.flow_id, label=label)
    except ValidationError as error:
        raise VerdictError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
    store = Store(store_dir)
    try:
        store.alerts.add_verdict(verdict, now_s=time.time())
    finally:
        store.close()
    return verdict


def _label(statement: Statement, found: str) -> str:
    if statement.judgement == "dismiss":
        if statement.label not in (None, BENIGN):
            raise VerdictError("a dismissed alert is benign; --label goes with confirm")
        return BENIGN
    label = statement.label or found
    if label == BENIGN:
        raise VerdictError("a confirmed alert is no benign traffic; dismiss it instead")
    if label not in CLASS_INDEX:
        attacks = ", ".join(name for name in CLASS_INDEX if name != BENIGN)
        raise VerdictError(f"{label!r} is no class of attack; say which with --label: {attacks}")
    return label
