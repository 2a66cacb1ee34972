"""The class taxonomy: what a flow can be. The order is part of the model, so it only ever grows at the end."""

from contract.canonical import canonical_json, sha256_hex

BENIGN = "benign"

MEANING: dict[str, str] = {
    BENIGN: "traffic the device is meant to make",
    "scan": "probing of hosts or ports",
    "bruteforce": "guessing of credentials",
    "dos_flood": "exhaustion by volume: SYN, UDP, ICMP or request floods",
    "slow_dos": "exhaustion by connections kept open (slowloris, slowite)",
    "c2_beacon": "calls of malware to its controller",
    "mqtt_abuse": "misuse of MQTT: malformed packets, publish storms, topic probing",
    "exfiltration": "data carried out of the network",
    "spoofing": "traffic under a false identity, man in the middle",
    "other_attack": "malicious and none of the above",
}
CLASSES: tuple[str, ...] = tuple(MEANING)
"""Class names in model order; index 0 is benign."""

CLASS_INDEX: dict[str, int] = {name: index for index, name in enumerate(CLASSES)}
BENIGN_INDEX = CLASS_INDEX[BENIGN]
N_CLASSES = len(CLASSES)
UNLABELLED = -1
"""Label of a row whose class nobody stated."""

TAXONOMY_ID = sha256_hex(canonical_json(list(CLASSES)))
