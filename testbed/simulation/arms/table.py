"""All methods by name, each with the settings that are tried when it is tuned; every method has four trials."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from testbed.simulation.arms import clustered, plain
from testbed.simulation.arms.families import families
from testbed.simulation.bench import Bench, Outcome

TRIALS = 4


@dataclass(frozen=True, slots=True)
class Arm:
    """A method and what is tried.

    Attributes
    ----------
    run
        The method.
    trials
        Settings to choose from, ``TRIALS`` of them.
    tuned_as
        Arm whose chosen settings it takes; its own trials otherwise. Ablations take those of the full method.
    fixed
        Settings on top of the chosen ones.
    """

    run: Callable[[Bench, Mapping[str, Any]], Outcome]
    trials: tuple[Mapping[str, Any], ...] = ()
    tuned_as: str | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)


def _grid(**values: tuple[Any, ...]) -> tuple[dict[str, Any], ...]:
    """Return ``TRIALS`` settings; single values repeat."""
    return tuple({name: v[i % len(v)] for name, v in values.items()} for i in range(TRIALS))


_LR = (0.005, 0.01, 0.02, 0.04)
_TWO_LR = (0.01, 0.02, 0.01, 0.02)
_TWO_OTHER = (0, 0, 1, 1)


def _pairs(name: str, first: Any, second: Any, **more: Any) -> tuple[dict[str, Any], ...]:
    """Return two learning rates times two values of another setting."""
    return tuple({"lr": lr, name: (first, second)[k], **more} for lr, k in zip(_TWO_LR, _TWO_OTHER, strict=True))


_IFCA = _pairs("start", "random", "devices")
_DITTO = tuple(
    {"lr": lr, "tuning_rounds": rounds, "lam": 0.03, "server": "adam", "server_lr": 0.03}
    for lr, rounds in ((0.01, 4), (0.01, 8), (0.01, 16), (0.02, 8))
)
_OURS: tuple[dict[str, Any], ...] = (
    {"lr": 0.01, "server": "momentum", "beta": 0.7},
    {"lr": 0.007, "server": "momentum", "beta": 0.8},
    {"lr": 0.01, "server": "adam", "server_lr": 0.03, "tuning_rounds": 10},
    {"lr": 0.02, "tuning_rounds": 6, "alone_rounds": 14},
)
_FULL = {
    "level1": True,
    "level2": True,
    "ladder": True,
    "mask": "experts",
    "tuning_mask": False,
    "common": True,
    "warmup": 1,
    "tuning_rounds": 5,
    "lam": 0.03,
    "min_conflict": -1.0,
}
_BARE = {"ladder": False}

ARMS: dict[str, Arm] = {
    "local": Arm(plain.local_only, _grid(lr=_LR)),
    "centralised": Arm(plain.centralised, _grid(lr=_LR)),
    "centralised by family": Arm(plain.centralised_by_family, _grid(lr=_LR)),
    "fedavg": Arm(plain.fedavg, _grid(lr=_LR)),
    "fedprox": Arm(plain.fedavg, _pairs("mu", 0.01, 0.1)),
    "scaffold": Arm(plain.scaffold, _grid(lr=(0.03, 0.1, 0.3, 0.6))),
    "fedadam": Arm(plain.fedopt, _pairs("server_lr", 0.01, 0.03, server="adam")),
    "fedyogi": Arm(plain.fedopt, _pairs("server_lr", 0.01, 0.03, server="yogi")),
    "ditto": Arm(plain.ditto, _pairs("lam", 0.03, 0.3)),
    "fedadam+ditto": Arm(plain.fedadam_ditto, _DITTO),
    "fedadam+ditto, masked": Arm(plain.fedadam_ditto, tuned_as="fedadam+ditto", fixed={"mask": True}),
    "fedper": Arm(plain.fedper, _grid(lr=_LR)),
    "cfl": Arm(clustered.cfl, _pairs("eps1", 0.4, 0.6, eps2=0.6, after=6)),
    "ifca-3": Arm(clustered.ifca, _IFCA, fixed={"k": 3}),
    "ifca-5": Arm(clustered.ifca, _IFCA, fixed={"k": 5}),
    "ifca-oracle": Arm(clustered.ifca, _IFCA, fixed={"k": "oracle"}),
    "fedgroup": Arm(clustered.fedgroup, _pairs("k", 3, 5)),
    "pacfl": Arm(clustered.pacfl, _pairs("quantile", 0.8, 0.93)),
    "ours: level 1": Arm(families, tuned_as="ours", fixed={**_FULL, **_BARE, "level2": False}),
    "ours: level 2": Arm(families, tuned_as="ours", fixed={**_FULL, **_BARE, "level1": False}),
    "ours: double": Arm(families, tuned_as="ours", fixed={**_FULL, **_BARE}),
    "ours: one model where families agree": Arm(families, tuned_as="ours", fixed={**_FULL, "min_conflict": 0.1}),
    "ours: open loss": Arm(families, tuned_as="ours", fixed={**_FULL, "mask": "none"}),
    "ours: own classes in the fallback too": Arm(families, tuned_as="ours", fixed={**_FULL, "mask": "all"}),
    "ours: own classes in fine-tuning too": Arm(families, tuned_as="ours", fixed={**_FULL, "tuning_mask": True}),
    "ours: own encoders": Arm(families, tuned_as="ours", fixed={**_FULL, "common": False}),
    "ours": Arm(families, _OURS, fixed=_FULL),
    "ours: oracle + ladder": Arm(families, tuned_as="ours", fixed={**_FULL, "oracle": True}),
}
"""In the order of the tables. ``ours``: double clustering, one encoder for all, experts with a loss over each
device's own classes, and the ladder: what the programs do by default."""
