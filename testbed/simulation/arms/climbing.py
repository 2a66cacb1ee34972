"""The ladder of every device of a simulated fleet: what it trains for it, and which rung it takes."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from device_agent.inference.engine import Inference
from device_agent.ladder import Losses, row_losses
from device_agent.rungs import BLENDS, Step, blended, climb
from testbed.simulation.bench import Bench
from testbed.simulation.fleet import PADDING
from testbed.simulation.local import LocalSettings
from testbed.simulation.net import Floats

_HEAD_SHARE = 3
"""One step in so many of a device outside trains its new head alone."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps that devices have for the ladder.

    Attributes
    ----------
    tuning, alone
        Of every device: fine-tuning, and a model of its own from the start.
    outside
        More for fine-tuning by devices without an expert, which trained less until here.
    """

    tuning: int
    alone: int
    outside: int


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where devices stand before they climb.

    Attributes
    ----------
    default
        Shape ``(n, P)``: the expert of each device, or the fallback.
    fallback
        Shape ``(P,)``.
    inside
        Shape ``(n,)``: whether a device has an expert.
    """

    default: Floats
    fallback: Floats
    inside: npt.NDArray[np.bool_]


def ladder(bench: Bench, places: Places, spend: Steps, tuned: LocalSettings) -> tuple[Floats, dict[str, int]]:
    """Let every device train what the ladder needs, and climb.

    Parameters
    ----------
    bench
        The bench.
    places
        Where the devices stand.
    spend
        Steps.
    tuned
        How members fine-tune; devices without a family do so over all classes.

    Returns
    -------
    numpy.ndarray, dict
        Weights that each device detects with, shape ``(n, P)``, and how many devices took each rung.
    """
    base, full = _fine_tuned(bench, places, spend, tuned)
    candidates: dict[Step, list[Floats]] = {
        "expert": [places.default],
        "fallback": [bench.stacked(places.fallback, bench.fleet.n)],
        "fine-tuned": [blended(base, full, share) for share in BLENDS],
    }
    if spend.alone:
        alone = LocalSettings(tuned.learning_rate)
        start = bench.stacked(bench.initial, bench.fleet.n)
        candidates["local"] = [bench.train(start, bench.everyone, spend.alone, alone)]
    share = bench.fleet.validation
    probs = {step: [bench.net.probabilities(t, share.x) for t in some] for step, some in candidates.items()}
    weights = np.maximum(share.weights(bench.fleet.layout.classes).astype(np.float64), 1e-6)
    result = places.default.copy()
    rungs: dict[str, int] = {}
    for i in range(bench.fleet.n):
        rows = share.y[i] != PADDING
        y, w = share.y[i][rows], weights[i][rows]
        losses = {step: [_losses(p[i][rows], y) for p in some] for step, some in probs.items()}
        best = {step: int(np.argmin([(w * values).sum() for values in some])) for step, some in losses.items()}
        if not places.inside[i]:
            del best["expert"]
        climbed = climb({step: losses[step][k] for step, k in best.items()}, y, np.arange(len(y)), weights=w)
        step: Step = "fallback" if climbed is None else climbed.step
        result[i] = candidates[step][best[step]][i]
        rungs[step] = rungs.get(step, 0) + 1
    return result, rungs


def _fine_tuned(bench: Bench, places: Places, spend: Steps, tuned: LocalSettings) -> tuple[Floats, Floats]:
    """Return what each device fine-tuned from, and what came out.

    A member starts from its expert. Where families disagree, the fallback's head is a compromise between them: a
    device outside puts a new head on the fallback's encoder, trains it alone first, and then everything.
    """
    base = places.default.copy()
    outside = np.flatnonzero(~places.inside)
    if spend.outside and len(outside):
        head = np.zeros(bench.net.n_parameters, dtype=np.bool_)
        head[bench.net.head] = True
        base[outside] = np.where(head, bench.initial, base[outside])
        only = LocalSettings(tuned.learning_rate)
        base[outside] = bench.train(base[outside], outside, spend.outside // _HEAD_SHARE, only, trainable=head)
    full = base.copy()
    inside = np.flatnonzero(places.inside)
    full[inside] = bench.train(full[inside], inside, spend.tuning, tuned)
    steps = spend.tuning + spend.outside - spend.outside // _HEAD_SHARE
    full[outside] = bench.train(full[outside], outside, steps, replace(tuned, mask_absent=False))
    return base, full


def _losses(probs: Floats, y: npt.NDArray[np.int32]) -> Losses:
    return row_losses(Inference(probs, np.zeros(len(y), dtype=np.float32)), y, recon_weight=0.0)
