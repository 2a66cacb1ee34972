"""Sketches as a second opinion."""

import numpy as np
import pytest

from gateway.sketches import agreement


def unit(*values):
    made = np.array(values, dtype=float)
    return made / np.linalg.norm(made)


def test_a_member_that_pulls_against_the_others_stands_out():
    sketches = {"a": ("x", unit(1, 0)), "b": ("x", unit(1, 0.1)), "c": ("x", unit(1, -0.1)), "d": ("x", unit(-1, 0))}
    found = agreement(sketches, {"family-1": frozenset("abcd")})
    assert found["d"] == pytest.approx(-1.0)
    assert min(found[d] for d in "abc") > 0.9


def test_sketches_of_other_anchors_and_of_two_devices_say_nothing():
    sketches = {"a": ("x", unit(1, 0)), "b": ("x", unit(1, 0)), "c": ("y", unit(1, 0))}
    assert agreement(sketches, {"family-1": frozenset("abc"), "family-2": frozenset("z")}) == {}
