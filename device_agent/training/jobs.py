"""Jobs and answers of the training process, and their form in frames."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from contract.layout import Layout
from device_agent.inference.engine import Floats
from device_agent.training.checkpoint import Checkpoint, checkpoint_from_message, checkpoint_to_message
from device_agent.training.optimizer import OptimizerSettings
from device_agent.training.trainer import TrainData, TrainResult, TrainSettings

CHECKPOINT_S = 5.0
"""A power cut costs this much training; on a memory card each checkpoint is some 200 kB."""


@dataclass(frozen=True, slots=True)
class TrainJob:
    """One training.

    Attributes
    ----------
    job_id
        Names the answer.
    layout
        The architecture.
    artifact
        A ``.tflite`` whose digest was checked (``load_artifact``); ``None`` = train with NumPy.
    theta
        Shape ``(P,)``, float32: where to start.
    data
        Rows.
    settings
        How to train.
    time_budget_s
        Wall time after which the loop stops and hands back what it has.
    resume
        Where an interrupted training of the same job stood, ``None`` from the start.
    checkpoint_s
        A checkpoint is handed out after an epoch, at most once in this many seconds.
    """

    job_id: str
    layout: Layout
    artifact: bytes | None
    theta: Floats
    data: TrainData
    settings: TrainSettings
    time_budget_s: float
    resume: Checkpoint | None = None
    checkpoint_s: float = CHECKPOINT_S


@dataclass(frozen=True, slots=True)
class TrainingFinished:
    """A training ended.

    Attributes
    ----------
    job_id
        Of which job.
    result
        Weights and figures.
    cpu_s
        CPU seconds of the loop.
    engine
        Name of the engine used.
    peak_rss_bytes
        Largest resident memory of the process so far; 0 where the system does not say.
    """

    job_id: str
    result: TrainResult
    cpu_s: float
    engine: str
    peak_rss_bytes: int


@dataclass(frozen=True, slots=True)
class TrainingFailed:
    """A training gave no result.

    Attributes
    ----------
    job_id
        Of which job.
    reason
        ``bad-job``, ``out-of-memory``, ``worker-died``, ``deadline``, ``cancelled``, ``closed`` or ``internal``.
    detail
        One line for the log.
    """

    job_id: str
    reason: str
    detail: str


TrainingEvent = TrainingFinished | TrainingFailed


def job_to_message(job: TrainJob) -> dict[str, Any]:
    """Return the frame of a job."""
    return {
        "job_id": job.job_id,
        "layout": asdict(job.layout),
        "artifact": job.artifact,
        "theta": job.theta.astype("<f4", copy=False).tobytes(),
        "x": job.data.x.astype("<f4", copy=False).tobytes(),
        "y": job.data.y.astype("<i4", copy=False).tobytes(),
        "settings": asdict(job.settings),
        "time_budget_s": job.time_budget_s,
        "resume": None if job.resume is None else checkpoint_to_message(job.resume),
        "checkpoint_s": job.checkpoint_s,
    }


def job_from_message(message: dict[str, Any]) -> TrainJob:
    """Return the job of a frame; its arrays are read-only views.

    Raises
    ------
    ValueError, TypeError, KeyError
        If the frame is no job or its arrays do not fit the layout.
    """
    layout = Layout(**{**message["layout"], "hidden": tuple(message["layout"]["hidden"])})
    settings = dict(message["settings"])
    settings["optimizer"] = OptimizerSettings(**settings["optimizer"])
    y = np.frombuffer(message["y"], dtype="<i4")
    return TrainJob(
        job_id=message["job_id"],
        layout=layout,
        artifact=message["artifact"],
        theta=np.frombuffer(message["theta"], dtype="<f4"),
        data=TrainData(np.frombuffer(message["x"], dtype="<f4").reshape(len(y), layout.inputs), y),
        settings=TrainSettings(**settings),
        time_budget_s=float(message["time_budget_s"]),
        resume=None if message["resume"] is None else checkpoint_from_message(message["resume"]),
        checkpoint_s=float(message["checkpoint_s"]),
    )


def event_to_message(event: TrainingEvent) -> dict[str, Any]:
    """Return the frame of an answer."""
    if isinstance(event, TrainingFailed):
        return {"failed": asdict(event)}
    result = event.result
    return {
        "finished": {
            "job_id": event.job_id,
            "theta": result.theta.astype("<f4", copy=False).tobytes(),
            "steps": result.steps,
            "skipped_steps": result.skipped_steps,
            "losses": list(result.losses),
            "diverged": result.diverged,
            "stopped": result.stopped,
            "cpu_s": event.cpu_s,
            "engine": event.engine,
            "peak_rss_bytes": event.peak_rss_bytes,
        }
    }


def event_from_message(message: dict[str, Any]) -> TrainingEvent:
    """Return the answer of a frame.

    Raises
    ------
    ValueError, TypeError, KeyError
        If the frame is no answer.
    """
    if "failed" in message:
        return TrainingFailed(**message["failed"])
    body = dict(message["finished"])
    outer = {name: body.pop(name) for name in ("job_id", "cpu_s", "engine", "peak_rss_bytes")}
    theta = np.frombuffer(body.pop("theta"), dtype="<f4").astype(np.float32)
    result = TrainResult(theta=theta, losses=tuple(body.pop("losses")), **body)
    return TrainingFinished(result=result, **outer)
