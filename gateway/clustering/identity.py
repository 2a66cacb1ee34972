"""Which new group continues which earlier family."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

MIN_OVERLAP = 0.5


def match_families(groups: Sequence[frozenset[str]], families: Mapping[str, frozenset[str]]) -> list[str | None]:
    """Match groups to families by the best total Jaccard overlap.

    Parameters
    ----------
    groups
        Members of each new group.
    families
        Members of each earlier family. Members without a signature now are part of the overlap's denominator.

    Returns
    -------
    list
        For each group the family it continues, or ``None``: an overlap below one half is a new family.
    """
    result: list[str | None] = [None] * len(groups)
    names = sorted(families)
    if not groups or not names:
        return result
    overlap = np.array([[_jaccard(group, families[name]) for name in names] for group in groups])
    for row, column in zip(*linear_sum_assignment(overlap, maximize=True), strict=True):
        if overlap[row, column] >= MIN_OVERLAP:
            result[row] = names[column]
    return result


def _jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    union = len(a | b)
    return len(a & b) / union if union else 0.0
