"""What one device lives through: a profile, a learn part, an exam part and attack episodes, all from one seed."""

from dataclasses import dataclass
from typing import Final

from testbed.traffic.attacks import ATTACKS
from testbed.traffic.profiles import PROFILES

LEARN_S: Final = 1200.0
EXAM_S: Final = 600.0
MIN_LEARN_S: Final = 120.0
MIN_EXAM_S: Final = 60.0
_LEARN_EPISODES: Final = 3
_EXAM_EPISODES: Final = 2
_REFERENCE_S: Final = 1200.0


@dataclass(frozen=True, slots=True)
class Episode:
    """One run of an attack: ``attack`` names a row of ATTACKS, times are seconds from the capture's start."""

    attack: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class DeviceScenario:
    """One device of the testbed; equal scenarios give equal captures, byte for byte.

    Parameters
    ----------
    device_id
        Name of the device, also of its files.
    profile
        A row of PROFILES.
    seed
        Seed of everything random about the device, 0 or more.
    number
        Last part of the device's address 10.20.0.x, 10 to 60.
    learn_s, exam_s
        Length of the two parts, seconds; the exam part is made with fresh randomness.
    episodes
        When which attack runs.
    """

    device_id: str
    profile: str
    seed: int
    number: int
    learn_s: float = LEARN_S
    exam_s: float = EXAM_S
    episodes: tuple[Episode, ...] = ()

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise ValueError(f"{self.device_id}: no profile {self.profile!r} (there are {', '.join(PROFILES)})")
        if self.learn_s < MIN_LEARN_S or self.exam_s < MIN_EXAM_S:
            raise ValueError(
                f"{self.device_id}: learn part {self.learn_s:g} s and exam part {self.exam_s:g} s;"
                f" at least {MIN_LEARN_S:g} s and {MIN_EXAM_S:g} s are needed"
            )
        for episode in self.episodes:
            if episode.attack not in ATTACKS:
                raise ValueError(f"{self.device_id}: no attack {episode.attack!r} (there are {', '.join(ATTACKS)})")
            if self.family not in ATTACKS[episode.attack].forms:
                raise ValueError(f"{self.device_id}: attack {episode.attack} has no form for family {self.family}")

    @property
    def family(self) -> str:
        """Return the traffic family of the device's profile."""
        return PROFILES[self.profile].family

    @property
    def duration_s(self) -> float:
        """Return the length of the whole capture, seconds."""
        return self.learn_s + self.exam_s


def schedule(
    learn: tuple[str, ...], exam: tuple[str, ...], *, learn_s: float = LEARN_S, exam_s: float = EXAM_S
) -> tuple[Episode, ...]:
    """Spread attacks over both parts, three episodes each in the learn part and two in the exam part.

    Parameters
    ----------
    learn, exam
        Names of attacks for each part.
    learn_s, exam_s
        Length of the parts, seconds; in a learn part shorter than 1200 s episodes shrink with the square root, so
        that classes of few flows stay learnable.

    Notes
    -----
    Several episodes per attack, so that a split by time blocks finds each class on both sides.
    """
    shrink = min(1.0, (learn_s / _REFERENCE_S) ** 0.5)
    return _spread(learn, _LEARN_EPISODES, 0.0, learn_s, shrink) + _spread(
        exam, _EXAM_EPISODES, learn_s, exam_s, shrink
    )


def _spread(
    attacks: tuple[str, ...], rounds: int, from_s: float, length_s: float, shrink: float
) -> tuple[Episode, ...]:
    """Place every attack once in each of the rounds, at evenly spaced starts."""
    episodes = []
    slots = max(1, rounds * len(attacks))
    step_s = 0.86 * length_s / slots
    for slot in range(rounds * len(attacks)):
        name = attacks[slot % len(attacks)]
        start_s = from_s + 0.06 * length_s + slot * step_s
        end_s = start_s + min(ATTACKS[name].episode_s * shrink, 0.95 * step_s + 0.05 * length_s)
        episodes.append(Episode(name, round(start_s, 3), round(end_s, 3)))
    return tuple(episodes)


@dataclass(frozen=True, slots=True)
class _Role:
    """A device of the default fleet: its profile and what attacks it sees in which part."""

    device_id: str
    profile: str
    learn: tuple[str, ...]
    exam: tuple[str, ...]


# Labels are skewed on purpose: no device sees every attack while it learns, and most exams bring an attack
# that only another member of the family has seen. monitor-1 learns from benign traffic alone; printer-1 is never
# attacked.
_FLEET: Final = (
    _Role("cam-1", "camera", ("bruteforce", "c2_beacon", "port_scan"), ("bruteforce", "c2_beacon", "slow_dos")),
    _Role(
        "temp-1", "temp_sensor", ("bruteforce", "mqtt_abuse", "port_scan"), ("bruteforce", "mqtt_abuse", "exfiltration")
    ),
    _Role(
        "plc-1", "plc", ("modbus_injection", "port_scan", "syn_flood"), ("modbus_injection", "port_scan", "syn_flood")
    ),
    _Role("cam-2", "camera", ("slow_dos", "syn_flood", "exfiltration"), ("slow_dos", "exfiltration", "bruteforce")),
    _Role("plug-1", "smart_plug", ("c2_beacon", "mqtt_abuse", "slow_dos"), ("slow_dos", "c2_beacon", "udp_flood")),
    _Role(
        "doorbell-1",
        "doorbell",
        ("bruteforce", "exfiltration", "syn_flood"),
        ("exfiltration", "c2_beacon", "syn_flood"),
    ),
    _Role(
        "temp-2", "temp_sensor", ("exfiltration", "udp_flood", "c2_beacon"), ("exfiltration", "c2_beacon", "mqtt_abuse")
    ),
    _Role("monitor-1", "baby_monitor", (), ("bruteforce", "c2_beacon", "exfiltration")),
    _Role(
        "air-1",
        "air_quality",
        ("bruteforce", "exfiltration", "telnet_sweep"),
        ("bruteforce", "telnet_sweep", "c2_beacon"),
    ),
    _Role("printer-1", "printer", (), ()),
)


def default_fleet(
    seed: int, *, learn_s: float = LEARN_S, exam_s: float = EXAM_S, devices: int | None = None
) -> list[DeviceScenario]:
    """Return the testbed's ten devices: four media, four sensors, two that are like nobody.

    Parameters
    ----------
    seed
        Seed of the fleet; each device derives its own.
    learn_s, exam_s
        Length of the two parts, seconds.
    devices
        Take only the first so many, 1 to 10; the order mixes the families.

    Raises
    ------
    ValueError
        A length is too short or the number of devices is out of range.
    """
    count = len(_FLEET) if devices is None else devices
    if not 1 <= count <= len(_FLEET):
        raise ValueError(f"{count} devices asked for; the default fleet has 1 to {len(_FLEET)}")
    return [
        DeviceScenario(
            device_id=role.device_id,
            profile=role.profile,
            seed=seed * 1000 + position,
            number=10 + position,
            learn_s=learn_s,
            exam_s=exam_s,
            episodes=schedule(role.learn, role.exam, learn_s=learn_s, exam_s=exam_s),
        )
        for position, role in enumerate(_FLEET[:count])
    ]
