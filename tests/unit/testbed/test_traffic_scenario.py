"""The fleet and its schedules."""

import pytest

from testbed.traffic.attacks import ATTACKS
from testbed.traffic.profiles import PROFILES
from testbed.traffic.scenario import DeviceScenario, Episode, default_fleet, schedule


def labels(scenario: DeviceScenario, *, exam: bool) -> set[str]:
    """Return the attack classes of one part."""
    return {ATTACKS[e.attack].label for e in scenario.episodes if (e.start_s >= scenario.learn_s) == exam}


def test_the_fleet_has_four_media_four_sensor_and_two_odd_devices() -> None:
    families = [scenario.family for scenario in default_fleet(1)]
    assert {name: families.count(name) for name in families} == {"media": 4, "sensor": 4, "odd": 2}


def test_there_are_five_profiles_in_two_families_and_five_classes_of_attack() -> None:
    assert len(PROFILES) >= 5
    assert {profile.family for profile in PROFILES.values()} >= {"media", "sensor"}
    assert len({attack.label for attack in ATTACKS.values()}) >= 5


def test_device_ids_seeds_and_addresses_differ() -> None:
    fleet = default_fleet(1)
    for values in ([s.device_id for s in fleet], [s.seed for s in fleet], [s.number for s in fleet]):
        assert len(set(values)) == len(fleet)


def test_no_device_of_a_family_sees_every_class_its_family_sees_while_it_learns() -> None:
    fleet = default_fleet(1)
    for family in ("media", "sensor"):
        members = [scenario for scenario in fleet if scenario.family == family]
        seen = set().union(*(labels(scenario, exam=False) for scenario in members))
        assert all(labels(scenario, exam=False) < seen for scenario in members)


def test_exams_bring_classes_that_only_the_family_has_learnt() -> None:
    fleet = default_fleet(1)
    surprised = 0
    for scenario in fleet:
        relatives = [s for s in fleet if s.family == scenario.family and s is not scenario]
        known = set().union(*(labels(relative, exam=False) for relative in relatives))
        new = labels(scenario, exam=True) - labels(scenario, exam=False)
        assert new <= known, scenario.device_id
        surprised += bool(new)
    assert surprised >= 6


def test_one_device_is_benign_throughout_and_one_only_while_it_learns() -> None:
    by_id = {scenario.device_id: scenario for scenario in default_fleet(1)}
    assert by_id["printer-1"].episodes == ()
    assert not labels(by_id["monitor-1"], exam=False)
    assert labels(by_id["monitor-1"], exam=True)


@pytest.mark.parametrize("learn_s", [120.0, 400.0, 1200.0])
def test_episodes_stay_inside_their_part(learn_s: float) -> None:
    exam_s = learn_s / 2
    for scenario in default_fleet(1, learn_s=learn_s, exam_s=exam_s):
        for episode in scenario.episodes:
            exam = episode.start_s >= learn_s
            assert episode.start_s < episode.end_s <= (learn_s + exam_s if exam else learn_s)


def test_every_attack_has_three_learn_and_two_exam_episodes() -> None:
    names = [episode.attack for episode in schedule(("syn_flood", "slow_dos"), ("port_scan",))]
    assert {name: names.count(name) for name in names} == {"syn_flood": 3, "slow_dos": 3, "port_scan": 2}


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        ({"profile": "toaster"}, "toaster"),
        ({"learn_s": 10.0}, "10 s"),
        ({"episodes": (Episode("meteor", 1.0, 2.0),)}, "meteor"),
        ({"episodes": (Episode("mqtt_abuse", 1.0, 2.0),)}, "media"),
    ],
)
def test_a_wrong_scenario_names_the_culprit(change: dict[str, object], culprit: str) -> None:
    values = {"device_id": "cam-9", "profile": "camera", "seed": 1, "number": 10} | change
    with pytest.raises(ValueError, match=culprit):
        DeviceScenario(**values)


@pytest.mark.parametrize("devices", [0, 11])
def test_a_fleet_of_an_impossible_size_is_refused(devices: int) -> None:
    with pytest.raises(ValueError, match=str(devices)):
        default_fleet(1, devices=devices)
