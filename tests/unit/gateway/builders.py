"""Messages and configurations for the gateway's tests."""

from pathlib import Path

import numpy as np

from contract.canonical import sha256_hex
from contract.features import N_FEATURES, SCHEMA_ID
from contract.messages import Birth, ModelUpdate, RoundTask, Signature, Status, Telemetry, TrainTarget
from contract.model import DEFAULT_SPEC, weights_to_bytes
from contract.signatures import pack_log_std, pack_mean
from gateway.config import GatewayConfig

BASE = "b" * 64
EXPERT_BASE = "e" * 64


def config(directory: Path = Path("/nowhere"), **sections: object) -> GatewayConfig:
    """Return a configuration with the given sections."""
    document = {"store": {"dir": directory / "state"}, "signing": {"dir": directory / "keys"}, **sections}
    return GatewayConfig.model_validate(document)


def birth(device_id: str, *, session: str = "s1", **changes: str) -> Birth:
    """Return a birth that fits this gateway."""
    fields = {
        "device_id": device_id,
        "session": session,
        "contract_version": "1.0",
        "agent_version": "0.1",
        "board": "test",
        "system": "test",
        "python": "3.11",
        "engine": "numpy",
        "schema_id": SCHEMA_ID,
        "spec_id": DEFAULT_SPEC.spec_id,
        **changes,
    }
    return Birth.model_validate(fields)


def status(device_id: str, state: str = "ready", *, session: str = "s1") -> Status:
    """Return a status."""
    return Status.model_validate({"device_id": device_id, "session": session, "state": state})


def telemetry(device_id: str, *, rows: int = 500) -> Telemetry:
    """Return telemetry with training rows."""
    return Telemetry(device_id=device_id, session="s1", uptime_s=1.0, capture_state="running", train_rows=rows)


def signature(device_id: str, *, sequence: int = 1, value: float = 1.0, flows: int = 300) -> Signature:
    """Return a signature whose means all have one value."""
    data = np.full(N_FEATURES, value)
    return Signature(
        device_id=device_id,
        schema_id=SCHEMA_ID,
        sequence=sequence,
        flows=flows,
        mean=pack_mean(data),
        log_std=pack_log_std(np.full(N_FEATURES, -2.0)),
    )


def task(device_id: str, number: int, *, families: tuple[str, ...] = ()) -> RoundTask:
    """Return a task for the fallback and the given families' experts."""
    targets = [TrainTarget(role="fallback", base=BASE)]
    targets += [TrainTarget(role="expert", family_id=family_id, base=EXPERT_BASE) for family_id in families]
    return RoundTask(
        round_id=f"round-{number:06d}",
        round_number=number,
        device_id=device_id,
        spec_id=DEFAULT_SPEC.spec_id,
        targets=tuple(targets),
        local_epochs=1,
        learning_rate=0.01,
        proximal_mu=0.0,
        recon_weight=1.0,
        seed=0,
        deadline_s=10.0,
    )


def update(device_id: str, number: int, *, family_id: str | None = None, **changes: object) -> ModelUpdate:
    """Return a valid update for ``task``, with changes."""
    role = "fallback" if family_id is None else "expert"
    data = weights_to_bytes(np.full(DEFAULT_SPEC.n_parameters, 0.01, dtype=np.float32))
    fields = {
        "update_id": f"round-{number:06d}-{device_id}-{role}",
        "round_id": f"round-{number:06d}",
        "device_id": device_id,
        "role": role,
        "family_id": family_id,
        "spec_id": DEFAULT_SPEC.spec_id,
        "base": BASE if family_id is None else EXPERT_BASE,
        "delta": data,
        "delta_digest": sha256_hex(data),
        "rows": 100,
        "train_seconds": 0.1,
        **changes,
    }
    return ModelUpdate.model_validate(fields)
