"""Which rows train and which validate: whole blocks of time, so that neighbours never sit on both sides."""

from dataclasses import dataclass
from enum import IntEnum, unique

import numpy as np
import numpy.typing as npt

from contract.mixing import GOLDEN, splitmix64

_MICROS = 1_000_000


@unique
class Split(IntEnum):
    """What a row is for."""

    TRAIN = 0
    VALIDATION = 1
    EXAM = 2


@dataclass(frozen=True, slots=True)
class SplitSettings:
    """How time is cut.

    Attributes
    ----------
    block_s
        Length of a block in seconds of packet time, >= 1.
    validation_share
        Share of blocks that validate, in ``(0, 1)``.
    seed
        Of the hash; the same seed cuts the same way after a restart.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    block_s: int = 10
    validation_share: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        if self.block_s < 1 or not 0.0 < self.validation_share < 1.0 or not 0 <= self.seed < 2**63:
            raise ValueError(f"{self} is out of range")


def block_numbers(start_us: npt.NDArray[np.int64], settings: SplitSettings) -> npt.NDArray[np.int64]:
    """Return the block of each time in microseconds since the epoch."""
    result: npt.NDArray[np.int64] = np.asarray(start_us, dtype=np.int64) // (settings.block_s * _MICROS)
    return result


def assign_splits(
    start_us: npt.NDArray[np.int64], exam: npt.NDArray[np.bool_], settings: SplitSettings
) -> npt.NDArray[np.uint8]:
    """Return the :class:`Split` of each row, uint8, shape ``(n,)``.

    Parameters
    ----------
    start_us
        Shape ``(n,)``: first packet of each flow.
    exam
        Shape ``(n,)``: rows that are held out whatever their block says.
    settings
        How time is cut.
    """
    hashed = splitmix64(block_numbers(start_us, settings).astype(np.uint64) + np.uint64(settings.seed) * GOLDEN)
    validates = hashed < np.uint64(int(settings.validation_share * 2.0**64))
    return np.where(exam, Split.EXAM, np.where(validates, Split.VALIDATION, Split.TRAIN)).astype(np.uint8)
