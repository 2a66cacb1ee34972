"""Alerts in the form of Suricata EVE."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from contract.features import INDEX
from contract.ids import DeviceId
from contract.messages.alerts import EveAlert, EveFlow, EveKinwatch, EveSignature
from contract.model import ModelId
from contract.taxonomy import CLASS_INDEX, MEANING
from device_agent.detection.calibration import Calibration
from device_agent.detection.detector import ANOMALY
from device_agent.flows.records import FlowBatch

SIGNATURE_BASE = 9_000_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PROTOCOLS = {1: "ICMP", 2: "IGMP", 6: "TCP", 17: "UDP", 47: "GRE", 58: "IPv6-ICMP", 132: "SCTP"}
_CATEGORY_AND_SEVERITY = {
    "scan": ("Detection of a Network Scan", 3),
    "bruteforce": ("Attempted User Privilege Gain", 1),
    "dos_flood": ("Detection of a Denial of Service Attack", 2),
    "slow_dos": ("Detection of a Denial of Service Attack", 2),
    "c2_beacon": ("Malware Command and Control Activity Detected", 1),
    "mqtt_abuse": ("Generic Protocol Command Decode", 2),
    "exfiltration": ("Potential Corporate Privacy Violation", 1),
    "spoofing": ("Potentially Bad Traffic", 2),
    "other_attack": ("Misc Attack", 2),
    ANOMALY: ("Misc activity", 3),
}
"""Descriptions of Suricata's own classification file where one fits, and how bad each is (1 = worst)."""


@dataclass(frozen=True, slots=True)
class Judge:
    """Who judged.

    Attributes
    ----------
    device_id
        The device.
    model
        The model in use.
    calibration
        Its calibration.
    """

    device_id: DeviceId
    model: ModelId
    calibration: Calibration


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found on one flow.

    Attributes
    ----------
    score
        In ``[0, 1]``.
    attack_class
        Class name, or ``anomaly``.
    top_features
        Names, strongest first.
    repeats
        Alerts of its kind left out since the last one.
    """

    score: float
    attack_class: str
    top_features: tuple[str, ...] = ()
    repeats: int = 0


def eve_time(at_us: int) -> str:
    """Return microseconds since the epoch as EVE writes time.

    >>> eve_time(1_700_000_000_000_001)
    '2023-11-14T22:13:20.000001+0000'
    """
    return (_EPOCH + timedelta(microseconds=at_us)).strftime("%Y-%m-%dT%H:%M:%S.%f+0000")


def build_alert(flows: FlowBatch, row: int, finding: Finding, judge: Judge) -> EveAlert:
    """Return the alert on one flow of a batch; its time is the flow's last packet."""
    identity, features = flows.identity[row], flows.features[row]
    source, destination = flows.ip_text(row)
    category, severity = _CATEGORY_AND_SEVERITY[finding.attack_class]
    meaning = MEANING.get(finding.attack_class, "traffic unlike what the device makes")
    index = CLASS_INDEX.get(finding.attack_class, CLASS_INDEX["other_attack"])
    proto = int(identity["proto"])
    return EveAlert(
        timestamp=eve_time(int(identity["ts_end_us"])),
        flow_id=int(identity["flow_id"]),
        src_ip=source,
        src_port=int(identity["src_port"]),
        dest_ip=destination,
        dest_port=int(identity["dst_port"]),
        proto=_PROTOCOLS.get(proto, f"{proto:03d}"),
        alert=EveSignature(
            signature_id=SIGNATURE_BASE + index,
            signature=f"KINWATCH {finding.attack_class}: {meaning}",
            category=category,
            severity=severity,
        ),
        flow=EveFlow(
            pkts_toserver=int(features[INDEX["fwd_pkts"]]),
            pkts_toclient=int(features[INDEX["bwd_pkts"]]),
            bytes_toserver=int(features[INDEX["fwd_bytes"]]),
            bytes_toclient=int(features[INDEX["bwd_bytes"]]),
            start=eve_time(int(identity["ts_start_us"])),
        ),
        kinwatch=EveKinwatch(
            device_id=judge.device_id,
            score=finding.score,
            threshold=judge.calibration.threshold,
            attack_class=finding.attack_class,
            model=judge.model.digest,
            role=judge.model.role,
            family_id=judge.model.family_id,
            top_features=finding.top_features,
            repeats=finding.repeats,
        ),
    )
