"""Every device joins the part that is clearly the nearest, or none."""

import numpy as np

from gateway.clustering.refinement import REST, comparable, refined, without_small
from gateway.grouping import Prototype


def fleet(stray=None):
    """Two parts of six on a line, 0.1 apart inside; the last device is a stray at a place of its own."""
    places = np.array([*(0.1 * np.arange(6)), *(5.0 + 0.1 * np.arange(6))])
    if stray is not None:
        places = np.append(places, stray)
    distances = np.abs(places[:, None] - places[None, :])
    return distances, ~np.eye(len(places), dtype=bool)


def test_a_device_in_the_wrong_part_moves_to_the_nearest():
    distances, pairs = fleet()
    labels = np.repeat([0, 1], 6)
    labels[5] = 1
    assert refined(distances, pairs, labels, 4).tolist() == [0] * 6 + [1] * 6


def test_a_device_between_two_parts_is_in_none():
    distances, pairs = fleet(stray=2.75)
    assert refined(distances, pairs, np.array([0] * 6 + [1] * 7), 4).tolist() == [0] * 6 + [1] * 6 + [REST]


def test_pairs_that_share_no_class_do_not_count():
    """The tree needed a distance for every pair; here the made-up one of the last device keeps it out of no part."""
    distances, pairs = fleet(stray=0.3)
    distances[12, :4] = distances[:4, 12] = 9.0
    assert refined(distances, pairs, np.array([0] * 6 + [1] * 6 + [REST]), 4)[12] == REST
    pairs[12, :4] = pairs[:4, 12] = False
    assert refined(distances, pairs, np.array([0] * 6 + [1] * 6 + [REST]), 4)[12] == 0


def test_a_part_does_not_vanish_while_devices_move():
    """Parts on top of each other: nobody is clearly nearer to one of them, and the cut stays as it was."""
    distances, pairs = fleet()
    labels = np.tile([0, 1], 6)
    assert refined(distances, pairs, labels, 4).tolist() == labels.tolist()


def test_comparable_needs_a_class_in_common():
    def seen(*names):
        return {name: Prototype(np.zeros(3), 10) for name in names}

    result = comparable([seen("scan", "flood"), seen("flood"), seen("scan"), {}])
    assert result.tolist() == [
        [False, True, True, False],
        [True, False, False, False],
        [True, False, False, False],
        [False] * 4,
    ]


def test_small_parts_fall_away():
    assert without_small(np.array([0, 0, 1, 2, 2, REST]), 2).tolist() == [0, 0, REST, 1, 1, REST]
