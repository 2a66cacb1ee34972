"""Who is there: births, status, liveness, training rows and signatures. No I/O; time is passed in.

Liveness rests on when the gateway heard something, by its monotonic clock; clocks of devices are never compared.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from contract import CONTRACT_MAJOR
from contract.features import SCHEMA_ID
from contract.messages import Birth, Signature, Status, Telemetry
from contract.signatures import PROTOTYPE_UNIT, malformed, moment_noise, unpack_log_std, unpack_mean, unpack_sketch
from contract.taxonomy import CLASS_INDEX, CLASSES, N_CLASSES
from gateway.grouping import Prototype

_GONE = frozenset({"disconnected", "lost"})
_KNOWN_ROWS = 5
"""Rows from which on a device has seen a class."""
_WORKING = frozenset({"ready", "training", "degraded"})


@dataclass(frozen=True, slots=True)
class Device:
    """A device as the gateway sees it.

    Attributes
    ----------
    device_id, session
        Its id, and the id of its process.
    state, state_reason
        Last status; ``unknown`` before the first.
    online
        Whether it counts as there.
    refusal
        Why it cannot take part, ``None`` if it can.
    board, engine, agent_version
        From its birth; for people.
    train_rows
        Training rows it last reported.
    last_seen
        When it was last heard, monotonic seconds; ``None`` if not since this process started.
    """

    device_id: str
    session: str = ""
    state: str = "unknown"
    state_reason: str = ""
    online: bool = False
    refusal: str | None = "no-birth"
    board: str = ""
    engine: str = ""
    agent_version: str = ""
    train_rows: int = 0
    last_seen: float | None = None

    @property
    def can_train(self) -> bool:
        """Whether it may be invited to a round, rows aside."""
        return self.online and self.refusal is None and self.state in _WORKING


@dataclass(frozen=True, slots=True)
class DeviceChanged:
    """Store this state of a device."""

    device: Device


@dataclass(frozen=True, slots=True)
class SignatureStored:
    """Store this signature; it is newer than the last one."""

    signature: Signature


@dataclass(frozen=True, slots=True)
class Refused:
    """Count a message that was not taken, and log it.

    Attributes
    ----------
    device_id
        Who sent it.
    what
        Kind of message.
    reason
        Slug.
    """

    device_id: str
    what: str
    reason: str


RegistryEvent = Birth | Status | Telemetry | Signature
RegistryEffect = DeviceChanged | SignatureStored | Refused


class Registry:
    """All devices and their signatures.

    Parameters
    ----------
    spec_id
        The model spec of this gateway.
    offline_after_s
        Silence after which a device counts as gone.
    devices, signatures
        What the store remembers; nobody is online until heard again.

    Attributes
    ----------
    vectors, flows, prototypes
        Of the last signature of each device.
    classes
        Attack classes that each device has seen.
    sketches
        Anchor and direction of each device's sketch, where it sent one.
    noise
        Standard deviation of the noise in each device's means, 0 without.
    """

    def __init__(
        self,
        *,
        spec_id: str,
        offline_after_s: float,
        devices: Iterable[Device] = (),
        signatures: Iterable[Signature] = (),
    ) -> None:
        self._spec_id = spec_id
        self._offline_after_s = offline_after_s
        self._devices = {d.device_id: replace(d, online=False, last_seen=None) for d in devices}
        self._sequences: dict[str, int] = {}
        self.vectors: dict[str, npt.NDArray[np.float64]] = {}
        self.flows: dict[str, int] = {}
        self.prototypes: dict[str, dict[str, Prototype]] = {}
        self.classes: dict[str, frozenset[str]] = {}
        self.sketches: dict[str, tuple[str, npt.NDArray[np.float64]]] = {}
        self.noise: dict[str, float] = {}
        for signature in signatures:
            self._take(signature)

    @property
    def sequences(self) -> Mapping[str, int]:
        """Sequence of the last signature by device."""
        return self._sequences

    @property
    def devices(self) -> dict[str, Device]:
        """The devices by id."""
        return self._devices

    def handle(self, event: RegistryEvent, now: float) -> list[RegistryEffect]:
        """Take a message of a device.

        Parameters
        ----------
        event
            Decoded message; its ``device_id`` is known to be the sender's.
        now
            Monotonic seconds.
        """
        match event:
            case Birth():
                return self._birth(event, now)
            case Status():
                return self._status(event, now)
            case Telemetry():
                return self._telemetry(event, now)
            case Signature():
                return self._signature(event)

    def ensure(self, device_id: str) -> list[RegistryEffect]:
        """Make a device known that was heard of before its birth."""
        return [] if device_id in self._devices else [self._keep(Device(device_id))]

    def tick(self, now: float) -> list[RegistryEffect]:
        """Mark devices as gone that were silent for too long."""
        effects: list[RegistryEffect] = []
        for device in list(self._devices.values()):
            silent = device.last_seen is None or now - device.last_seen > self._offline_after_s
            if device.online and silent:
                gone = replace(device, online=False, state_reason=f"silent for {self._offline_after_s:g} s")
                effects.append(self._keep(gone))
        return effects

    def _birth(self, birth: Birth, now: float) -> list[RegistryEffect]:
        refusal = self._refusal(birth)
        old = self._devices.get(birth.device_id, Device(birth.device_id))
        device = replace(
            old,
            session=birth.session,
            refusal=refusal,
            board=birth.board,
            engine=birth.engine,
            agent_version=birth.agent_version,
            last_seen=now,
        )
        effects: list[RegistryEffect] = [self._keep(device)]
        if refusal is not None:
            effects.append(Refused(birth.device_id, "birth", refusal))
        return effects

    def _refusal(self, birth: Birth) -> str | None:
        if birth.contract_version.split(".", 1)[0] != str(CONTRACT_MAJOR):
            return "contract-major"
        if birth.schema_id != SCHEMA_ID:
            return "schema-mismatch"
        if birth.spec_id != self._spec_id:
            return "spec-mismatch"
        return None

    def _status(self, status: Status, now: float) -> list[RegistryEffect]:
        old = self._devices.get(status.device_id, Device(status.device_id))
        gone = status.state in _GONE
        if gone and old.session and status.session != old.session:
            # The last will of an earlier connection may arrive after the device came back.
            return [Refused(status.device_id, "status", "old-session")]
        device = replace(old, state=status.state, state_reason=status.reason, online=not gone, last_seen=now)
        return [self._keep(device)]

    def _telemetry(self, telemetry: Telemetry, now: float) -> list[RegistryEffect]:
        old = self._devices.get(telemetry.device_id, Device(telemetry.device_id))
        return [self._keep(replace(old, train_rows=telemetry.train_rows, online=True, last_seen=now))]

    def _signature(self, signature: Signature) -> list[RegistryEffect]:
        device_id = signature.device_id
        if signature.schema_id != SCHEMA_ID:
            return [Refused(device_id, "signature", "schema-mismatch")]
        last = self._sequences.get(device_id, -1)
        if signature.sequence < last:
            return [Refused(device_id, "signature", "old-sequence")]
        if signature.sequence == last:
            # Retained: it comes again with every connection.
            return []
        refusal = malformed(signature)
        if refusal is not None:
            return [Refused(device_id, "signature", refusal)]
        self._take(signature)
        effects: list[RegistryEffect] = [SignatureStored(signature)]
        old = self._devices.get(device_id, Device(device_id))
        if old.train_rows == 0:
            effects.append(self._keep(replace(old, train_rows=signature.flows)))
        return effects

    def _take(self, signature: Signature) -> None:
        device_id = signature.device_id
        self._sequences[device_id] = signature.sequence
        self.vectors[device_id] = signature_vector(signature)
        self.flows[device_id] = signature.flows
        self.prototypes[device_id] = signature_prototypes(signature)
        self.classes[device_id] = frozenset(
            name for name, rows in zip(CLASSES[1:], signature.class_rows[1:], strict=False) if rows >= _KNOWN_ROWS
        )
        self.noise[device_id] = moment_noise(signature.noise, signature.flows) if signature.noise else 0.0
        if signature.sketch is None or signature.anchor is None:
            self.sketches.pop(device_id, None)
        else:
            self.sketches[device_id] = (signature.anchor, unpack_sketch(signature.sketch))

    def _keep(self, device: Device) -> DeviceChanged:
        self._devices[device.device_id] = device
        return DeviceChanged(device)


def signature_vector(signature: Signature) -> npt.NDArray[np.float64]:
    """Return ``[mean, log_std]`` of a signature, shape ``(2 * N_FEATURES,)``, in units of the transform."""
    return np.concatenate([unpack_mean(signature.mean), unpack_log_std(signature.log_std)])


def signature_prototypes(signature: Signature) -> dict[str, Prototype]:
    """Return the attack prototypes of a signature by class, in units of the transform."""
    rows = signature.class_rows + (0,) * (N_CLASSES - len(signature.class_rows))
    return {
        name: Prototype(
            np.frombuffer(values, dtype=np.int8).astype(np.float64) * PROTOTYPE_UNIT,
            max(1, rows[CLASS_INDEX[name]]),
        )
        for name, values in signature.prototypes.items()
    }
