"""Who is listened to: floods, nonsense, and that neither costs another device anything."""

from gateway.admission import Admission, AdmissionRules

RULES = AdmissionRules(
    messages_per_s=10.0, burst_messages=20, bytes_per_s=1_000.0, burst_bytes=5_000, strikes=3, quarantine_s=60.0
)


def test_a_flood_is_cut_to_the_rate_and_others_are_not_touched():
    admission = Admission(RULES)
    taken = sum(admission.admit("flood", 1, at / 1_000) is None for at in range(10_000))
    assert 20 + 99 <= taken <= 20 + 101
    assert admission.admit("quiet", 1, 10.0) is None


def test_bytes_count_as_well():
    admission = Admission(RULES)
    assert admission.admit("cam-1", 4_000, 0.0) is None
    assert admission.admit("cam-1", 2_000, 0.0) == "rate-limited"
    assert admission.admit("cam-1", 2_000, 1.5) is None


def test_the_first_message_over_the_rate_is_worth_a_line_and_the_next_are_not():
    admission = Admission(RULES)
    assert [admission.first_of_flood("cam-1", 0.0) for _ in range(3)] == [True, False, False]
    assert admission.admit("cam-1", 1, 0.0) is None
    assert admission.first_of_flood("cam-1", 0.0)


def test_nonsense_leads_to_quarantine_which_ends_and_is_longer_the_next_time():
    admission = Admission(RULES)
    assert admission.refused("bad", "malformed", 0.0) is None
    assert admission.refused("bad", "invalid", 1.0) is None
    first = admission.refused("bad", "delta-digest", 2.0)
    assert first is not None
    assert (first.seconds, first.times) == (60.0, 1)
    assert admission.admit("bad", 1, 61.0) == "quarantined"
    assert admission.admit("good", 1, 3.0) is None
    assert admission.admit("bad", 1, 62.0) is None
    second = [admission.refused("bad", "malformed", 63.0 + i) for i in range(3)][-1]
    assert second is not None
    assert (second.seconds, second.times) == (120.0, 2)


def test_lateness_and_repetition_are_no_nonsense():
    admission = Admission(RULES)
    for reason in ("duplicate", "stale-round", "old-session", "uninvited", "wrong-base"):
        for _ in range(10):
            assert admission.refused("slow", reason, 0.0) is None
    assert admission.admit("slow", 1, 0.0) is None


def test_rare_mistakes_do_not_add_up():
    admission = Admission(RULES)
    assert all(admission.refused("cam-1", "malformed", 31.0 * i) is None for i in range(50))


def test_a_quarantine_outlives_a_restart():
    admission = Admission(RULES, [("bad", 30.0, 2)], now=100.0)
    assert admission.admit("bad", 1, 129.0) == "quarantined"
    assert admission.admit("bad", 1, 131.0) is None


def test_a_clock_that_stands_still_or_steps_back_gives_nothing_away():
    admission = Admission(RULES)
    assert sum(admission.admit("cam-1", 1, 50.0 - i) is None for i in range(40)) == 20
