"""What families cost at size: 100,000 signatures, and how long the largest signature is."""

import time
import tracemalloc
from dataclasses import dataclass

import numpy as np

from contract.codec import encode
from contract.features import N_FEATURES, SCHEMA_ID
from contract.messages import Signature
from contract.signatures import ANCHOR_DIGITS, SKETCH_SIZE
from contract.taxonomy import CLASSES
from device_agent.signature import MOST_PROTOTYPES
from gateway.clustering.level1 import SearchSettings, find_families
from testbed.simulation.measures import adjusted_rand

_FAMILIES = 20
_OUTLIERS = 0.05


@dataclass(frozen=True, slots=True)
class ScaleFigures:
    """Cost of one search.

    Attributes
    ----------
    devices
        Signatures.
    cpu_s, memory_bytes
        CPU time of the search, and the most memory that it holds beside the signatures.
    ari, outlier_recall
        Against the truth.
    """

    devices: int
    cpu_s: float
    memory_bytes: int
    ari: float
    outlier_recall: float


def search_cost(devices: int = 100_000, seed: int = 5) -> ScaleFigures:
    """Search for families among generated signatures of the schema's length: 20 families and 5 % outliers."""
    rng = np.random.default_rng(seed)
    family = rng.integers(0, _FAMILIES, devices)
    family[rng.random(devices) < _OUTLIERS] = -1
    length = 2 * N_FEATURES
    centres = rng.normal(0.0, 1.0, (_FAMILIES, length))
    matrix = np.where(family[:, None] >= 0, centres[family], rng.normal(0.0, 2.0, (devices, length)))
    matrix += 0.15 * rng.normal(size=matrix.shape)
    vectors = {f"device-{i:06d}": matrix[i] for i in range(devices)}
    warm = dict(list(vectors.items())[:200])
    find_families(warm, SearchSettings(), np.random.default_rng(0))  # loads and compiles what the first call needs
    started = time.process_time()
    grouping = find_families(vectors, SearchSettings(), np.random.default_rng(seed))
    cpu_s = time.process_time() - started
    # A search of its own, since watching allocations takes time.
    tracemalloc.start()
    find_families(vectors, SearchSettings(), np.random.default_rng(seed))
    memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    number_of = {name: i for i, name in enumerate(vectors)}
    labels = np.full(devices, -1)
    for number, group in enumerate(grouping.groups):
        labels[[number_of[d] for d in group.members]] = number
    lonely = family < 0
    return ScaleFigures(devices, cpu_s, memory, adjusted_rand(family, labels), float((labels[lonely] < 0).mean()))


def largest_signature_bytes() -> int:
    """Return the size of a signature with as many prototypes as a device sends."""
    half = np.zeros(N_FEATURES, dtype="<f2").tobytes()
    longest = sorted(CLASSES[1:], key=len)[-MOST_PROTOTYPES:]
    message = Signature(
        device_id="a-device-with-a-rather-long-name",
        schema_id=SCHEMA_ID,
        sequence=99_999,
        flows=65_535,
        mean=half,
        log_std=bytes(N_FEATURES),
        class_rows=(65_535,) * len(CLASSES),
        prototypes={name: bytes(N_FEATURES) for name in longest},
        sketch=bytes(SKETCH_SIZE),
        anchor="0" * ANCHOR_DIGITS,
    )
    return len(encode(message))
