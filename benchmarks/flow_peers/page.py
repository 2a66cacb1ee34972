"""The page of the comparison, from its figures."""

_HEAD = """# Our flow records beside those of other programs

Written by `{command}` on {date} (Python {python}, {machine}); figures in `flows-peers.json`.
{met} of {bars} bars met."""

_NFSTREAM = """## NFStream, {captures} captures

The same timeouts ({idle} and {active} s), IP lengths, tunnels not decoded.

{totals}

A key is both endpoints, protocol and VLAN. Of {keys:,} keys, {equal:,} have the same flows: first and last time (ms),
packets and bytes of each direction. For the others NFStream's flows are predicted from its rules. {explained:,}
predictions are exact and have a cause, {unexplained} are not or have none:

{causes}

Packets that the two see differently; with these taken into account, {unaccounted} packets are left over:

{seen}"""

_CIC = """## The CICFlowMeter table of the MQTT testbed

{rows}

The rules:

{rules}"""

_ZEEK = """## Labelled Zeek flows, IoT-23 8-1

Joined on 5-tuple and time.

{rows}

Zeek gives an unanswered SYN up after 5 s, we end a flow after 15 s without a packet, so repeated attempts of one
5-tuple are one flow of ours. No label is lost by that as long as no flow has rows of two labels."""


def text(result: dict) -> str:
    """Return the page."""
    met = sum(bar["ok"] for bar in result["bars"].values())
    head = _HEAD.format(
        **{k: result[k] for k in ("command", "date", "python", "machine")}, met=met, bars=len(result["bars"])
    )
    parts = (head, _nfstream(result["nfstream"]), _cic(result["cicflowmeter"]), _zeek(result["zeek"]))
    return "\n\n".join(parts) + "\n"


def _table(head: tuple[str, ...], rows: list[tuple]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = (f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _nfstream(found: dict) -> str:
    causes = found["keys_that_differ_by_cause"].items()
    return _NFSTREAM.format(
        captures=found["captures"],
        **found["timeouts_s"],
        totals=_table(("", "ours", "NFStream"), [(w, found[w]["ours"], found[w]["NFStream"]) for w in _TOTALS]),
        keys=found["keys"]["all"],
        equal=found["keys"]["equal"],
        explained=found["keys"].get("explained", 0),
        unexplained=found["keys"]["unexplained"],
        causes=_table(
            ("what differs, for the packets of a key", "keys", "our flows", "NFStream's"),
            [(label, row["keys"], row["flows_ours"], row["flows_NFStream"]) for label, row in causes],
        ),
        unaccounted=found["packets_unaccounted_for"],
        seen=_table(("a packet", "packets"), list(found["packets_seen_differently_by_cause"].items())),
    )


_TOTALS = ("flows", "packets", "bytes")


def _cic(found: dict) -> str:
    rows = [(name, n) for name, n in found.items() if isinstance(n, int)]
    return _CIC.format(
        rows=_table(("rows of the table", ""), [*rows, ("unexplained", len(found["unexplained"]))]),
        rules="\n".join(f"- {rule}" for rule in found["rules"]),
    )


def _zeek(found: dict) -> str:
    return _ZEEK.format(rows=_table(("", ""), [(name.replace("_", " "), value) for name, value in found.items()]))
