"""Headers of published tables as their publishers write them: all columns that are no features, and some that are."""

from testbed.simulation.public import FILE, PUBLIC

HEADERS: dict[str, tuple[str, str]] = {
    # File name, and columns separated by blanks; a blank in a name is written "~".
    "nbaiot": (
        "1.mirai.ack.csv",
        "MI_dir_L5_weight MI_dir_L5_mean MI_dir_L5_variance H_L5_weight HH_L5_weight HH_jit_L5_mean HpHp_L5_pcc",
    ),
    "ciciot2023": (
        "part-00000-363d1ba3-8ab5-4f96-bc25-4d5862db7cb9-c000.csv",
        "flow_duration Header_Length Protocol~Type Duration Rate Srate Drate fin_flag_number IAT Number Weight label",
    ),
    "edge-iiotset": (
        "DNN-EdgeIIoT-dataset.csv",
        """frame.time ip.src_host ip.dst_host arp.opcode icmp.checksum http.content_length tcp.ack tcp.dstport tcp.len
        tcp.payload tcp.srcport udp.port udp.stream mqtt.len mqtt.topic_len Attack_label Attack_type""",
    ),
    "ton-iot": (
        "Network_dataset_1.csv",
        """ts src_ip src_port dst_ip dst_port proto service duration src_bytes dst_bytes conn_state missed_bytes
        src_pkts dst_pkts label type""",
    ),
    "x-iiotid": (
        "X-IIoTID dataset.csv",
        """Date Timestamp Scr_IP Scr_port Des_IP Des_port Protocol Service Duration Scr_bytes Des_bytes Conn_state
        Scr_pkts Des_pkts Avg_user_time OSSEC_alert class1 class2 class3""",
    ),
    "rt-iot2022": (
        "RT_IOT2022.csv",
        """no id.orig_p id.resp_p proto service flow_duration fwd_pkts_tot bwd_pkts_tot fwd_iat.min flow_pkts_per_sec
        Attack_type""",
    ),
    "iot-23": (
        "conn.log.labeled",
        """ts uid id.orig_h id.orig_p id.resp_h id.resp_p proto service duration orig_bytes resp_bytes conn_state
        local_orig missed_bytes history orig_pkts resp_pkts tunnel_parents label detailed-label""",
    ),
}
LABELS = {
    "nbaiot": ("benign", "mirai.ack"),
    "ciciot2023": ("BenignTraffic", "DDoS-ICMP_Flood"),
    "edge-iiotset": ("Normal", "DDoS_UDP"),
    "ton-iot": ("normal", "backdoor"),
    "x-iiotid": ("Normal", "Reconnaissance"),
    "rt-iot2022": ("MQTT_Publish", "DOS_SYN_Hping"),
    "iot-23": ("Benign", "Malicious"),
}


def columns(name: str) -> list[str]:
    """Return the header of a set."""
    return [column.replace("~", " ") for column in HEADERS[name][1].split()]


def features(name: str) -> list[str]:
    """Return the columns that may teach a model."""
    spec = PUBLIC[name]
    return [c for c in columns(name) if c not in spec.drop | {spec.label, spec.client}]


def row(name: str, client: str, label: str, number: int) -> dict[str, str]:
    """Return a row; columns that are dropped hold what would give the label away."""
    spec = PUBLIC[name]
    values = {c: str(number) for c in columns(name)}
    values |= dict.fromkeys((c for c in columns(name) if c in spec.drop), f"{label}-{client}")
    if spec.label != FILE:
        values[spec.label] = label
    if spec.client != FILE:
        values[spec.client] = client
    return values
