"""Runs in the environment of the peers: the flows NFStream makes of captures, one JSON line a capture.

python nfstream_side.py IDLE_S ACTIVE_S < list of paths
"""

import json
import sys

from nfstream import NFStreamer

COLUMNS = (
    "src_ip",
    "src_port",
    "dst_ip",
    "dst_port",
    "protocol",
    "vlan_id",
    "bidirectional_first_seen_ms",
    "bidirectional_last_seen_ms",
    "src2dst_packets",
    "dst2src_packets",
    "src2dst_bytes",
    "dst2src_bytes",
)


def main() -> None:
    idle_s, active_s = int(sys.argv[1]), int(sys.argv[2])
    for path in sys.stdin.read().split("\n"):
        if not path:
            continue
        try:
            streamer = NFStreamer(
                source=path,
                idle_timeout=idle_s,
                active_timeout=active_s,
                accounting_mode=1,
                decode_tunnels=False,
                n_dissections=0,
                n_meters=1,
                snapshot_length=65_535,
            )
            flows, error = [[getattr(flow, name) for name in COLUMNS] for flow in streamer], None
        except Exception as caught:  # noqa: BLE001 - whatever it refuses a capture for is part of the comparison
            flows, error = [], str(caught)
        print(json.dumps({"path": path, "flows": flows, "error": error}), flush=True)


if __name__ == "__main__":
    main()
