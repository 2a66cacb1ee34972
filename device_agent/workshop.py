"""What the device makes of its rows for itself and for the gateway: signature, own rungs, losses of asked models."""

import numpy as np

from contract.messages import EvaluationRequest, LossReport, ModelLoss, Signature
from contract.model import ModelId, Role
from contract.signatures import ANCHOR_DIGITS, pack_log_std, pack_mean, pack_sketch, project_update
from contract.taxonomy import BENIGN_INDEX, N_CLASSES
from device_agent.choosing import compare, self_check
from device_agent.inference.engine import Floats
from device_agent.ladder import MIN_ROWS, paired_gain
from device_agent.learner import Outcome
from device_agent.memory import model_id, own_model
from device_agent.parts import Parts
from device_agent.rungs import BLENDS, blended
from device_agent.samples.split import Split
from device_agent.signature import Moments, attack_prototypes, noisy_moments, traffic_moments

_SKETCH = "sketch"


class Workshop:
    """Makes things of the parts' rows and models.

    Parameters
    ----------
    parts
        Everything that was built from the configuration.
    rng
        For noise; seeded from the operating system.
    """

    def __init__(self, parts: Parts, rng: np.random.Generator) -> None:
        self._parts = parts
        self._rng = rng

    def signature(self, sequence: int, *, moments_only: bool) -> Signature | None:
        """Return the signature of the training rows, ``None`` if there are too few benign ones.

        While the traffic drifts, the moments are those of the latest flows without an alert: the training rows still
        show what was.
        """
        parts = self._parts
        rows = parts.buffer.rows(Split.TRAIN)
        benign = rows.x[rows.y == BENIGN_INDEX]
        if parts.pipeline.drift.drifted:
            recent = parts.pipeline.drift.recent()
            benign = recent if len(recent) >= parts.config.training.min_benign_rows else benign
        moments = self._moments(benign)
        if moments is None:
            return None
        multiplier = parts.config.privacy.signature_noise
        told = not moments_only and not multiplier
        held = parts.buffer.counts(Split.TRAIN)
        sketch, anchor = self._sketch() if told else (None, None)
        looks = attack_prototypes(rows.x, rows.y) if told else {}
        return Signature(
            device_id=parts.config.device.id,
            schema_id=parts.spec.schema_id,
            sequence=sequence,
            flows=moments.flows,
            mean=pack_mean(moments.mean),
            log_std=pack_log_std(moments.log_std),
            class_rows=tuple(held.get(label, 0) for label in range(N_CLASSES)) if told else (),
            prototypes={name: values.tobytes() for name, values in looks.items()},
            sketch=sketch,
            anchor=anchor,
            noise=multiplier or None,
        )

    def keep_sketch(self, outcome: Outcome) -> None:
        """Keep the projection of what a training at the anchor changed; one that changed nothing has none."""
        delta = (outcome.finished.result.theta - outcome.base).astype(np.float64)
        if not delta.any():
            return
        sketch = pack_sketch(project_update(delta))
        anchor = outcome.job.base[:ANCHOR_DIGITS]
        self._parts.memory.state.put(_SKETCH, {"anchor": anchor, "sketch": sketch.hex()})

    def keep_rung(self, outcome: Outcome) -> ModelId | None:
        """Check a model of the device's own and keep it; ``None`` if it must not be used."""
        parts = self._parts
        role: Role = "fine-tuned" if outcome.job.kind == "fine-tuned" else "local"
        model = own_model(parts.spec, self._best_blend(outcome), parent=outcome.job.base, role=role)
        if self_check(parts.engine, model.weights, parts.evidence().validation) is not None:
            return None
        parts.memory.models[model.digest] = model
        parts.memory.state.keep_model(model)
        return model_id(model)

    def _best_blend(self, outcome: Outcome) -> Floats:
        """Return the model between base and fine-tuned one that does best on the validation rows."""
        theta = outcome.finished.result.theta
        evidence = self._parts.evidence()
        if outcome.job.kind != "fine-tuned" or len(evidence.validation) < MIN_ROWS:
            return theta
        blends = {f"{share:g}": blended(outcome.base, theta, share) for share in BLENDS}
        compared = compare(blends, evidence, self._parts.engine)
        return blends[min(blends, key=lambda name: compared.mean(compared.losses[name]))]

    def losses(self, request: EvaluationRequest, refusal: str) -> LossReport:
        """Return how the models that were asked about do on the validation rows."""
        parts, evidence = self._parts, self._parts.evidence()
        rows = evidence.validation
        reason = refusal or ("few-rows" if len(rows) < MIN_ROWS else "measured")
        losses: list[ModelLoss] = []
        if reason == "measured":
            models: dict[str, Floats] = {m.digest: parts.memory.models[m.digest].weights for m in request.models}
            compared = compare(models, evidence, parts.engine)
            first = compared.losses[request.models[0].digest]
            for model in request.models:
                own = compared.losses[model.digest]
                gain, z = paired_gain(first, own, compared.blocks, compared.weights)
                losses.append(ModelLoss(model=model, loss=compared.mean(own), gain=gain, z=z))
        return LossReport(
            device_id=request.device_id,
            request=request.request,
            rows=len(rows),
            reason=reason,
            losses=tuple(losses),
        )

    def _moments(self, benign: Floats) -> Moments | None:
        config = self._parts.config
        multiplier = config.privacy.signature_noise
        if multiplier:
            return noisy_moments(benign, multiplier, self._rng, min_flows=config.signature_rows)
        return traffic_moments(benign, min_flows=config.signature_rows)

    def _sketch(self) -> tuple[bytes, str] | tuple[None, None]:
        kept = self._parts.memory.state.get(_SKETCH)
        if not isinstance(kept, dict):
            return None, None
        return bytes.fromhex(str(kept["sketch"])), str(kept["anchor"])
