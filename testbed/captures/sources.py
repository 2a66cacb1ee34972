"""Which hosts of the public data sets become agents, from which captures, with which truth.

Classes of the sources and of the taxonomy:

========================  ===========  =====================================================
source                    class        malicious are the flows with one of these endpoints
========================  ===========  =====================================================
AllKahra, by capture      as named     the attacker; in c2 and scan also the compromised sensor
MQTTset ``bruteforce``    bruteforce   the attacker
MQTTset ``flood``         dos_flood    the attacker
MQTTset ``malariados``    dos_flood    the attacker
MQTTset ``slowite``       slow_dos     the attacker
MQTTset ``malformed``     mqtt_abuse   the attacker
IoT-23 8-1 (Hakai)        c2_beacon    the two controllers, TCP port 50
========================  ===========  =====================================================

AllKahra is split by round: the rounds its authors call blind are the exam, all others the learn part. MQTTset and
IoT-23 have one capture a class, so each is cut in time: the first 60 % learn, the rest is the exam.

The compromised sensor of AllKahra is no agent: it sends 673 packets, all malicious, none of them in a blind round.
The two MQTTset sensors are seen a second time in the broker's capture, from the other end.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from contract.taxonomy import BENIGN, CLASS_INDEX
from testbed.captures.errors import LabelsInputError

LEARN_SHARE: Final = 0.6
_ATTACKER: Final = "172.30.0.200"
_COMPROMISED: Final = "172.30.0.13"
_COMPROMISED_CLASSES: Final = ("c2_beacon", "scan")
_ALLKAHRA: Final = "pcap/allkahra"
_MQTTSET: Final = "pcap/mqttset"
_IOT23: Final = "pcap/iot23_8-1/2018-07-31-15-15-09-192.168.100.113.pcap"
_MQTTSET_BROKERS: Final = frozenset(("10.16.100.73", "192.168.1.91", "10.16.120.72"))
_MQTTSET_ATTACKS: Final = (
    ("bruteforce/bruteforce-train.pcapng", "bruteforce", "192.168.1.90"),
    ("malariados/malariados-train.pcap", "dos_flood", "192.168.1.90"),
    ("malformed/malformed-train.pcap", "mqtt_abuse", "192.168.1.90"),
    ("slowite/slowite-train.pcap", "slow_dos", "10.16.120.44"),
    ("flood/flood-train.pcap", "dos_flood", "192.168.1.100"),
)


@dataclass(frozen=True, slots=True)
class Source:
    """One source capture, or a piece of it.

    Parameters
    ----------
    name
        Path below the data folder.
    split
        Part it goes to; None = cut in time at LEARN_SHARE.
    label
        Class of its malicious flows; ``benign`` = there are none.
    malicious
        One endpoint of a malicious flow is among these.
    proto, ports
        Narrow the rule further; None and empty = any.
    """

    name: str
    split: Literal["learn", "exam"] | None
    label: str = BENIGN
    malicious: tuple[str, ...] = ()
    proto: int | None = None
    ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class HostPlan:
    """One host that becomes an agent.

    Parameters
    ----------
    device_id
        Name of the agent.
    profile
        What the host is.
    addresses
        The host's addresses in its sources.
    sources
        In the order in which they follow one another.
    """

    device_id: str
    profile: str
    addresses: frozenset[str]
    sources: tuple[Source, ...]


def host_plans(data_root: Path) -> list[HostPlan]:
    """Return the hosts that become agents.

    Parameters
    ----------
    data_root
        The data folder.

    Raises
    ------
    LabelsInputError
        A label table of AllKahra is missing or names an unknown class.
    """
    rounds = _allkahra_sources(data_root)
    kinds = {
        "10": "http_gateway",
        "11": "http_sensor",
        "12": "http_sensor",
        "14": "mqtt_sensor",
        "20": "mqtt_broker",
    }
    plans = [
        HostPlan(f"allkahra-{last}", kind, frozenset((f"172.30.0.{last}",)), rounds) for last, kind in kinds.items()
    ]
    telemetry = Source(f"{_MQTTSET}/benign-5mb/benign-5mb-train.pcap", None)
    attacks = tuple(Source(f"{_MQTTSET}/{name}", None, label, (who,)) for name, label, who in _MQTTSET_ATTACKS)
    beacons = Source(_IOT23, None, "c2_beacon", ("178.128.185.250", "128.185.250.50"), proto=6, ports=(50,))
    return [
        *plans,
        HostPlan("mqttset-broker", "mqtt_broker", _MQTTSET_BROKERS, (telemetry, *attacks)),
        HostPlan("mqttset-154", "mqtt_sensor", frozenset(("192.168.0.154",)), (telemetry,)),
        HostPlan("mqttset-180", "mqtt_sensor", frozenset(("192.168.0.180",)), (telemetry,)),
        HostPlan("iot23-pi", "raspberry_pi", frozenset(("192.168.100.113",)), (beacons,)),
    ]


def _allkahra_sources(data_root: Path) -> tuple[Source, ...]:
    """Return the captures of AllKahra by round, labelled by the tables beside them."""
    folder = data_root / _ALLKAHRA
    sources = []
    for table in sorted(folder.glob("*/pcap_labels*.csv")):
        split: Literal["learn", "exam"] = "exam" if table.parent.name.startswith("blind") else "learn"
        for name, label in _label_rows(table):
            malicious: tuple[str, ...] = ()
            if label != BENIGN:
                malicious = (_ATTACKER, _COMPROMISED) if label in _COMPROMISED_CLASSES else (_ATTACKER,)
            sources.append(Source(f"{_ALLKAHRA}/{table.parent.name}/{name}", split, label, malicious))
    if not sources:
        raise LabelsInputError(f"{folder}: no label tables here (*/pcap_labels*.csv)")
    return tuple(sources)


def _label_rows(table: Path) -> Iterable[tuple[str, str]]:
    """Yield (file name, class) of a label table; empty lines, also before the header, do not count."""
    try:
        lines = [line for line in table.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise LabelsInputError(f"{table}: cannot read the label table ({error})") from error
    for row in csv.DictReader(lines):
        name, label = row.get("filename"), row.get("attack_type")
        if not name or label not in CLASS_INDEX:
            raise LabelsInputError(f"{table}: row {row} has no file name or no known class in attack_type")
        yield name, label
