"""Attack prototypes on their way from the signature to a family."""

import numpy as np
import pytest

from contract.features import N_FEATURES, SPAN
from gateway.families import Family, FamilyBook, FamilyRules
from gateway.grouping import Scaling
from gateway.registry import Refused, Registry
from tests.unit.gateway.builders import signature

PLAIN = np.full(N_FEATURES, 127, dtype=np.int8).tobytes()


def registry():
    return Registry(spec_id="a" * 64, offline_after_s=90.0)


def test_prototypes_come_in_units_of_the_transform():
    core = registry()
    core.handle(signature("cam-1").model_copy(update={"prototypes": {"scan": PLAIN}, "class_rows": (0, 9)}), 0.0)
    held = core.prototypes["cam-1"]["scan"]
    assert held.vector == pytest.approx(np.full(N_FEATURES, SPAN))
    assert held.rows == 9


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"prototypes": {"scan": PLAIN[:-1]}}, "prototype-length"),
        ({"prototypes": {"sorcery": PLAIN}}, "unknown-class"),
        ({"prototypes": {"benign": PLAIN}}, "unknown-class"),
        ({"class_rows": (1,) * 11}, "class-rows"),
        ({"sketch": b"\1" * 64}, "sketch"),
        ({"sketch": bytes(64), "anchor": "a" * 16}, "sketch"),
        ({"noise": 1.0, "class_rows": (9,)}, "noise"),
    ],
)
def test_odd_prototypes_are_refused_and_change_nothing(changes, reason):
    core = registry()
    (refused,) = core.handle(signature("cam-1").model_copy(update=changes), 0.0)
    assert refused == Refused("cam-1", "signature", reason)
    assert core.vectors == core.prototypes == {}


def test_a_late_joiner_between_families_of_the_same_traffic_waits_for_the_next_search():
    middle = np.zeros(4)
    families = [Family("family-1", 5, 1.0, middle), Family("family-2", 5, 1.0, middle + 0.1)]
    book = FamilyBook(FamilyRules(5, 10), families=families, scaling=Scaling(middle, np.ones(4)))
    (effect,) = book.device_seen("cam-9", middle, 7)
    assert (effect.decision.family_id, effect.decision.kind) == (None, "fits-none")
    assert "differ in what attacks look like" in effect.decision.reason
