"""The search at size, in small: above 2,000 devices a sample decides, and everybody is placed."""

from testbed.simulation.scale import largest_signature_bytes, search_cost


def test_a_sampled_search_places_everybody():
    cost = search_cost(devices=6_000)
    assert cost.ari > 0.9
    assert cost.outlier_recall > 0.8
    assert cost.memory_bytes < 300e6


def test_the_largest_signature_fits_one_kilobyte():
    assert largest_signature_bytes() <= 1_024
