"""Which devices count as drifted."""

from gateway.drifting import DriftWatch
from tests.unit.gateway.builders import telemetry


def heard(watch, *, flows=1_000, alerts=0, suppressed=0, features=("fwd_bytes",), session="s1"):
    changes = {"flows": flows, "alerts": alerts, "suppressed_alerts": suppressed, "drifted_features": features}
    watch.heard(telemetry("a").model_copy(update={**changes, "session": session}))


def test_a_device_is_due_once_for_each_new_signature():
    watch = DriftWatch(0.05, {"a": 3})
    heard(watch)
    assert watch.features_if_due("a", 3) == ()
    assert watch.features_if_due("a", 4) == ("fwd_bytes",)
    assert watch.features_if_due("a", 4) == ()
    assert watch.changed == {"a"}


def test_a_device_that_says_nothing_of_drift_is_never_due():
    watch = DriftWatch(0.05, {"a": 3})
    assert watch.features_if_due("a", 9) == ()
    heard(watch)
    heard(watch, features=())
    assert watch.features_if_due("a", 9) == ()


def test_suppressed_alerts_are_alerts_and_a_new_process_counts_from_zero():
    watch = DriftWatch(0.05, {"a": 0})
    heard(watch, flows=1_000, suppressed=900)
    assert watch.features_if_due("a", 1) == ()
    heard(watch, flows=1_200, suppressed=900)
    assert watch.features_if_due("a", 1) == ("fwd_bytes",)
    heard(watch, flows=100, alerts=90, session="s2")
    assert watch.features_if_due("a", 2) == ()


def test_a_search_starts_the_count_over():
    watch = DriftWatch(0.05, {"a": 0})
    heard(watch)
    watch.features_if_due("a", 1)
    watch.start_over({"a": 7})
    assert watch.changed == set()
    assert watch.features_if_due("a", 7) == ()
