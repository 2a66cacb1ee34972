"""What the agent holds between restarts, opened together: models, facts, rows, messages, alerts."""

from dataclasses import asdict, dataclass, replace

import numpy as np
from pydantic import TypeAdapter, ValidationError

from contract.initial import initial_theta
from contract.model import ModelId, ModelSpec, ReleaseManifest, Role, weights_digest
from device_agent.alert_file import AlertFile
from device_agent.config import AgentConfig
from device_agent.detection.calibration import Calibration
from device_agent.facts import Facts
from device_agent.inference.engine import Floats
from device_agent.store.blobs import BlobStore
from device_agent.store.database import Database
from device_agent.store.outbox import Outbox
from device_agent.store.samples import SampleStore
from device_agent.store.state import HeldModel, StateStore

_FACTS = TypeAdapter(Facts)
FACTORY_SEED = 0
"""Of the factory model's weights: every agent of a version starts from the same ones."""


def factory_model(spec: ModelSpec) -> HeldModel:
    """Return the model that ships with the agent: initial weights, which judge nothing before they were trained."""
    return own_model(spec, initial_theta(spec.layout, FACTORY_SEED), parent=None)


def own_model(spec: ModelSpec, theta: Floats, *, parent: str | None, role: Role = "factory") -> HeldModel:
    """Return weights of the device's own as a held model."""
    weights = np.array(theta, dtype=np.float32)
    weights.flags.writeable = False
    manifest = ReleaseManifest(
        weights_digest=weights_digest(weights),
        spec_id=spec.spec_id,
        n_parameters=spec.n_parameters,
        role=role,
        family_id=None,
        round_number=0,
        parent=parent,
    )
    return HeldModel(manifest, weights)


def model_id(model: HeldModel) -> ModelId:
    """Return role, family and digest of a held model."""
    return ModelId(role=model.manifest.role, family_id=model.manifest.family_id, digest=model.digest)


@dataclass(frozen=True, slots=True)
class Restored:
    """What the last process left behind.

    Attributes
    ----------
    facts
        For the core.
    calibration
        Of the model in use, ``None`` if there is none.
    first_us
        Packet time at which the baseline window began, 0 before.
    flows_per_hour
        Benign flows of the device.
    """

    facts: Facts
    calibration: Calibration | None
    first_us: int
    flows_per_hour: float


class Memory:
    """All stores of an agent.

    Parameters
    ----------
    config
        Says where they are.
    spec
        Models of another spec are dropped.

    Attributes
    ----------
    models
        Held models by digest, the factory model among them.
    """

    def __init__(self, config: AgentConfig, spec: ModelSpec) -> None:
        folder = config.store.dir
        self.state = StateStore(folder / "state.db")
        self.samples = SampleStore(folder / "samples.db")
        self.outbox = Outbox(folder / "outbox.db")
        self.blobs = BlobStore(folder / "blobs.db")
        self.alerts = AlertFile(config.alert_path, max_bytes=config.alerts.max_bytes)
        self._rates: tuple[int, float] = (0, 0.0)
        factory = factory_model(spec)
        held = {d: m for d, m in self.state.load_models().items() if m.manifest.spec_id == spec.spec_id}
        self.models: dict[str, HeldModel] = {**held, factory.digest: factory}
        self.factory = model_id(factory)

    def restore(self) -> Restored:
        """Return what the last process left behind; what does not fit together any more is forgotten."""
        try:
            facts = _FACTS.validate_python(self.state.get("facts") or {})
        except ValidationError:
            facts = Facts()
        if facts.active is not None and facts.active.digest not in self.models:
            facts = replace(facts, active=None, calibrated_rows=None, locally_trained=False)
        return Restored(
            facts=facts,
            calibration=self._calibration(facts),
            first_us=_whole(self.state.get("first_us")),
            flows_per_hour=_number(self.state.get("flows_per_hour")),
        )

    def save_facts(self, facts: Facts) -> None:
        """Keep what the core wants kept."""
        self.state.put("facts", _FACTS.dump_python(facts, mode="json"))

    def keep_rates(self, *, first_us: int, flows_per_hour: float) -> None:
        """Keep what :class:`Restored` says of the traffic; nothing is written while nothing changes."""
        rates = (first_us, flows_per_hour)
        if rates != self._rates and self.state.put("first_us", first_us):
            self.state.put("flows_per_hour", flows_per_hour)
            self._rates = rates

    def save_calibration(self, digest: str, calibration: Calibration) -> None:
        """Keep the threshold of the model in use."""
        self.state.put("calibration", {"digest": digest, **asdict(calibration)})

    @property
    def trouble(self) -> str:
        """Why the device is degraded, empty if all stores take writes."""
        bad = [database.path.name for database in self._databases if not database.healthy]
        return f"the disk refuses writes: {', '.join(bad)}" if bad else ""

    def counters(self) -> dict[str, int]:
        """Return failures, drops and losses by reason."""
        total: dict[str, int] = {"alert-file-lost": self.alerts.lost, "samples-lost": self.samples.lost}
        total["models-damaged"] = self.state.damaged_models
        total |= {f"outbox-dropped-{kind}": count for kind, count in self.outbox.dropped.items()}
        for database in self._databases:
            for reason, count in database.failures.items():
                total[reason] = total.get(reason, 0) + count
        return total

    def close(self) -> None:
        """Write what waits and close everything."""
        self.samples.close()
        self.outbox.close()
        self.blobs.close()
        self.state.close()
        self.alerts.close()

    @property
    def _databases(self) -> tuple[Database, ...]:
        return (self.state.database, self.samples.database, self.outbox.database, self.blobs.database)

    def _calibration(self, facts: Facts) -> Calibration | None:
        kept = self.state.get("calibration")
        if facts.active is None or not isinstance(kept, dict) or kept.pop("digest", None) != facts.active.digest:
            return None
        try:
            return TypeAdapter(Calibration).validate_python(kept)
        except ValidationError:
            return None


def _whole(value: object) -> int:
    return value if isinstance(value, int) and value >= 0 else 0


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and value >= 0 else 0.0
