"""The results of a run, as written to ``results.json``; every figure of a model rests on held-out exam flows."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contract.exit_codes import ExitCode
from contract.messages import EvaluationReport, ModelScore
from contract.model import ModelId, Role
from testbed import metrics
from testbed.errors import HarnessError


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelFigures(_Record):
    """How one model does on a device's exam flows.

    Attributes
    ----------
    macro_f1
        Mean of F1 over the classes in the device's exam truth; ``None`` without labelled exam flows.
    f1
        F1 of each of these classes.
    recall
        Attack class to (flows that raised an alert, flows).
    false_alarms, false_alarms_per_hour
        Benign exam flows that raised an alert, and the same per hour of exam traffic.
    confusion
        Rows = truth, columns = prediction, taxonomy order.
    """

    role: Role
    digest: str
    macro_f1: float | None
    f1: dict[str, float]
    recall: dict[str, tuple[int, int]]
    false_alarms: int
    false_alarms_per_hour: float | None
    confusion: tuple[tuple[int, ...], ...]


class EpisodeResult(_Record):
    """One attack episode of the ground truth and the alerts it raised.

    Attributes
    ----------
    start_s, end_s
        Seconds from the capture's first packet.
    alerts
        Alert lines about flows of the episode; repeats are left out by suppression.
    delay_s
        Packet time from the start of the episode to the first of them; ``None`` = missed.
    """

    label: str
    split: Literal["learn", "exam"]
    start_s: float
    end_s: float
    alerts: int
    delay_s: float | None


class AlertPoint(_Record):
    """An alert line: when (seconds from the capture's first packet), what, and whether it is about an attack flow."""

    at_s: float
    attack_class: str
    true: bool


class DeviceResult(_Record):
    """All about one device.

    Attributes
    ----------
    models
        Figures of the ``fallback``, the ``expert`` and the model ``in-use``, as far as the device holds them.
    gain, z
        Paired evidence behind the choice of the model, as the device reported it.
    rss_peak_bytes, trainer_rss_peak_bytes
        Largest resident memory of the agent process and of its training process.
    signature
        Trimmed mean of the benign flows under the fixed transform, one value per feature.
    restarts
        How often the agent process was replaced during the run.
    """

    device_id: str
    profile: str
    group: str = ""
    engine: str = ""
    family_id: str | None = None
    family_reason: str = ""
    in_use: str = ""
    choice: str = ""
    gain: float | None = None
    z: float | None = None
    threshold: float | None = None
    exam_rows: int = 0
    exam_s: float = 0.0
    models: dict[str, ModelFigures] = Field(default_factory=dict)
    packets: int = 0
    ignored_packets: int = 0
    dropped_packets: int = 0
    flows: int = 0
    alerts: int = 0
    suppressed_alerts: int = 0
    train_rows: int = 0
    validation_rows: int = 0
    rss_peak_bytes: int = 0
    trainer_rss_peak_bytes: int = 0
    restarts: int = 0
    capture_s: float = 0.0
    exam_from_s: float = 0.0
    episodes: tuple[EpisodeResult, ...] = ()
    alert_points: tuple[AlertPoint, ...] = ()
    signature: tuple[float, ...] = ()
    counters: dict[str, int] = Field(default_factory=dict)
    note: str = ""

    def f1_of(self, model: str) -> float | None:
        """Return macro-F1 with ``fallback``, ``expert`` or ``in-use``; ``None`` if there is no such model."""
        figures = self.models.get(model)
        return figures.macro_f1 if figures else None


class TrainingLine(_Record):
    """What one model's training looked like in one round: means over the devices' own validation rows."""

    model: str
    updates: int
    rows: int
    loss_before: float | None
    loss_after: float | None


class RoundResult(_Record):
    """One round; ``seconds`` from the first task to the first release, ``None`` if nothing was released."""

    number: int
    seconds: float | None
    invited: int
    training: tuple[TrainingLine, ...] = ()


class RunResults(_Record):
    """A whole run.

    Attributes
    ----------
    phases_s
        Wall time of each phase, seconds.
    families
        Family id to its devices.
    family_reason
        Why the devices are grouped as they are, in the gateway's words.
    notes
        What a reader must know: what was late, missing, restarted or refused.
    """

    version: Literal[1] = 1
    run_id: str
    started: str
    wall_s: float
    phases_s: dict[str, float]
    command: str
    settings: dict[str, str]
    source: str
    families: dict[str, tuple[str, ...]]
    family_reason: str
    rounds_completed: int
    rounds_wanted: int
    rounds: tuple[RoundResult, ...]
    devices: tuple[DeviceResult, ...]
    environment: dict[str, str]
    notes: tuple[str, ...]
    refusals: dict[str, int] = Field(default_factory=dict)

    def mean_f1(self, model: str) -> float | None:
        """Return the mean macro-F1 over the devices that hold such a model and have labelled exam flows."""
        values = [f1 for device in self.devices if (f1 := device.f1_of(model)) is not None]
        return sum(values) / len(values) if values else None

    def recall_by_attack(self, model: str = "in-use") -> dict[str, tuple[int, int]]:
        """Return ``(flows that raised an alert, flows)`` of each attack class over all devices."""
        total: dict[str, tuple[int, int]] = {}
        for device in self.devices:
            figures = device.models.get(model)
            for name, (hits, rows) in (figures.recall if figures else {}).items():
                before = total.get(name, (0, 0))
                total[name] = (before[0] + hits, before[1] + rows)
        return total

    def false_alarms(self, model: str = "in-use") -> tuple[int, float]:
        """Return false alarms and the hours of exam traffic they fell into, over all devices."""
        judged = [(device.models[model], device.exam_s) for device in self.devices if model in device.models]
        return sum(figures.false_alarms for figures, _ in judged), sum(seconds for _, seconds in judged) / 3_600.0


def model_figures(score: ModelScore, exam_s: float) -> ModelFigures:
    """Return the figures of one model from what a device counted.

    Raises
    ------
    ValueError
        If the counts contradict each other or the taxonomy.
    """
    return ModelFigures(
        role=score.model.role,
        digest=score.model.digest,
        macro_f1=metrics.macro_f1(score.confusion),
        f1=metrics.f1_per_class(score.confusion),
        recall=metrics.recall_per_attack(score.confusion, score.alerted),
        false_alarms=metrics.false_alarms(score.alerted),
        false_alarms_per_hour=metrics.false_alarms_per_hour(score.alerted, exam_s),
        confusion=score.confusion,
    )


def figures_of_report(report: EvaluationReport) -> tuple[dict[str, ModelFigures], str]:
    """Return the figures by role and for the model in use, and a note on what could not be used."""
    figures: dict[str, ModelFigures] = {}
    faults: list[str] = []
    for score in report.scores:
        try:
            one = model_figures(score, report.exam_benign_s)
        except ValueError as error:
            faults.append(f"{score.model.role}: {error}")
            continue
        figures[score.model.role] = one
        if score.model.digest == report.active.digest:
            figures["in-use"] = one
    return figures, "; ".join(filter(None, (report.note, *faults)))


def model_name(model: ModelId) -> str:
    """Return how a model is called in tables: ``expert family-2``, ``fallback``, ``factory``."""
    return f"{model.role} {model.family_id}" if model.family_id else model.role


def write_results(results: RunResults, path: Path) -> None:
    """Write the results as JSON."""
    path.write_text(results.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_results(path: Path) -> RunResults:
    """Read results.

    Raises
    ------
    HarnessError
        If the file is missing or holds something else; one line names file and field.
    """
    try:
        return RunResults.model_validate_json(path.read_bytes())
    except OSError as error:
        raise HarnessError(f"{path}: {error.strerror}", code=ExitCode.CAPTURE_INPUT) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise HarnessError(f"{path}: no results of a run: {where}: {first['msg']}", code=ExitCode.CONFIG) from None
