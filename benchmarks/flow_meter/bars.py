"""What was asked of the flow meter's speed, and whether it is met, from the figures of a run."""

BATCH, SMALL_BATCH = 16_384, 256
GATHERED = "columnar, gathered"
"""The NumPy meter as ``kinwatch-agent flows`` has it for files and pipes."""


def ours(engine: str, batch: int = BATCH) -> str:
    """Return the name of our meter in the tables."""
    return f"Kinwatch {engine}, batch {batch:,}"


def ratios(mixed: dict[str, dict], scan: dict[str, dict]) -> dict[str, float]:
    """Return how many times as much CPU time others take, start-up subtracted; what is missing is left out."""
    found = {}
    for engine in ("columnar", "fast"):
        for where, rows in (("mixed", mixed), ("scan", scan)):
            mine = rows.get(ours(engine), {}).get("ns_per_packet")
            for peer in ("NFStream", "cicflowmeter", "tcpdump"):
                other = rows.get(peer, {}).get("ns_per_packet")
                if mine and other:
                    found[f"{where}: {peer} / {engine}"] = round(other / mine, 2)
    return found


def bars(result: dict) -> dict[str, dict]:
    """Return the bars; a bar without a figure is missed."""
    found, loops = result["ratios"], result["meter_alone_ns_per_packet"]["mixed"]

    def least(value: float | None, bar: float) -> dict:
        return {"value": value, "bar": bar, "ok": value is not None and value >= bar}

    def most(value: float | None, bar: float) -> dict:
        return {"value": value, "bar": bar, "ok": value is not None and value <= bar}

    tcpdump = found.get("mixed: tcpdump / fast")

    def small(meter: str) -> float | None:
        found = loops.get(meter, {}).get(str(SMALL_BATCH))
        return found / 1_000 if found else None

    return {
        "NumPy on mixed traffic, times NFStream": least(found.get("mixed: NFStream / columnar"), 10.0),
        "NumPy on a scan of 150,000 flows, times NFStream": least(found.get("scan: NFStream / columnar"), 30.0),
        "NumPy on mixed traffic, times cicflowmeter": least(found.get("mixed: cicflowmeter / columnar"), 500.0),
        "C on mixed traffic, times NFStream": least(found.get("mixed: NFStream / fast"), 35.0),
        "C on mixed traffic, by tcpdump -w /dev/null": most(round(1 / tcpdump, 2) if tcpdump else None, 1.5),
        "NumPy in batches of 256, each by itself, us a packet, meter alone": most(small("columnar"), 3.0),
        "NumPy in batches of 256, gathered as from a pipe, us a packet, meter alone": most(small(GATHERED), 3.0),
    }
