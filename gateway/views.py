"""What the store holds, for people and programs: plain data, and text at 80 columns.

Longer than most for the number of views, each a few lines of text.
"""

import json
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from contract.model import DEFAULT_SPEC
from contract.signatures import unpack_sketch
from gateway.config import GatewayConfig
from gateway.errors import ConfigError
from gateway.privacy import gaussian_epsilon, update_epsilon
from gateway.sketches import agreement
from gateway.store import Store
from gateway.store.families import StoredDecision
from gateway.store.rounds import StoredRound

Data = dict[str, Any]
_WIDTH = 80
_SHORT = 12


def status(store: Store, config: GatewayConfig | None = None) -> Data:
    """Return rounds, devices with assignment and active model, families, refusals by reason, and privacy spent.

    Parameters
    ----------
    store
        Read only is enough.
    config
        Says how much noise there is; without it no epsilon is reckoned.
    """
    spent = {} if config is None else _spent(store, config)
    assignments = {a.device_id: a for a in store.families.assignments()}
    devices = []
    for stored in store.devices.all():
        device, assignment = stored.device, assignments.get(stored.device.device_id)
        devices.append(
            {
                "device_id": device.device_id,
                "online": device.online,
                "state": device.state,
                "state_reason": device.state_reason,
                "refusal": device.refusal,
                "engine": device.engine,
                "train_rows": device.train_rows,
                "last_seen": _time(stored.last_seen_s),
                "epsilon": spent.get(device.device_id),
                "assignment": None if assignment is None else assignment.model_dump(mode="json"),
                "active": None if stored.active is None else stored.active.model_dump(mode="json"),
            }
        )
    rounds = store.rounds.all()
    grouping = store.families.last_grouping()
    return {
        "spec_id": DEFAULT_SPEC.spec_id,
        "rounds_done": sum(r.state == "closed" for r in rounds),
        "rounds_expired": sum(r.state == "expired" for r in rounds),
        "open_round": next((r.number for r in rounds if r.state == "open"), None),
        "rounds": [_round(r) for r in rounds],
        "families": {family_id: sorted(m) for family_id, m in _members(store).items()},
        "search": None
        if grouping is None
        else {
            "round": grouping.round_number,
            "accepted": grouping.accepted,
            "reason": grouping.reason,
            "measures": grouping.measures,
        },
        "devices": devices,
        "quarantined": {
            c.device_id: {"reason": c.reason, "until": _time(c.until_s), "times": c.times}
            for c in store.quarantine.all()
            if c.until_s > time.time()
        },
        "refusals": store.counts(),
    }


def families(store: Store) -> Data:
    """Return the families with members, radius and expert; of each device the last decision and its sketch's word."""
    heads = store.models.heads()
    members = _members(store)
    grouping = store.families.last_grouping()
    sketches = {
        s.device_id: (s.anchor, unpack_sketch(s.sketch))
        for s in store.signatures.all()
        if s.anchor is not None and s.sketch is not None
    }
    alike = agreement(sketches, {family_id: frozenset(m) for family_id, m in members.items()})
    return {
        "search": None if grouping is None else grouping.reason,
        "families": [
            {
                "family_id": family.family_id,
                "members": sorted(members.get(family.family_id, ())),
                "created_round": family.created_round,
                "radius": round(family.radius, 4),
                "expert": heads[family.family_id][0] if family.family_id in heads else None,
                "shared": family.shared,
            }
            for family in store.families.living()
        ],
        "devices": [
            {**_decision(stored), "sketch_agreement": alike.get(stored.decision.device_id)}
            for stored in store.families.last_decisions()
        ],
    }


def why(store: Store, device_id: str) -> Data:
    """Return all decisions on a device, oldest first, and the model it uses."""
    active = next((s.active for s in store.devices.all() if s.device.device_id == device_id), None)
    return {
        "device_id": device_id,
        "decisions": [_decision(stored) for stored in store.families.decisions(device_id)],
        "active": None if active is None else active.model_dump(mode="json"),
    }


def models(store: Store) -> Data:
    """Return all models with their lineage, oldest first."""
    heads = {digest for digest, _ in store.models.heads().values()}
    return {
        "models": [
            {
                "digest": m.digest,
                "role": m.role,
                "family_id": m.family_id,
                "round": m.round_number,
                "parent": m.parent,
                "created": _time(m.created_s),
                "current": m.digest in heads,
                "published": m.published,
            }
            for m in store.models.all()
        ]
    }


def reports(store: Store) -> Data:
    """Return the evaluation reports by run and device."""
    return {"reports": [report.model_dump(mode="json") for report in store.reports.all()]}


def alerts(store: Store, device_id: str | None = None, limit: int = 50) -> Data:
    """Return the newest alerts, newest first, with the verdicts on them."""
    return {
        "alerts": [
            {**stored.alert.model_dump(mode="json"), "received": _time(stored.received_s), "verdict": stored.verdict}
            for stored in store.alerts.recent(device_id=device_id, limit=limit)
        ]
    }


def show(data: Data, text: str, *, as_json: bool) -> None:
    """Write data as JSON, or the text, to standard output."""
    sys.stdout.write((json.dumps(data, indent=2) if as_json else text.rstrip("\n")) + "\n")


def _spent(store: Store, config: GatewayConfig) -> dict[str, dict[str, float] | str]:
    """Return per device the epsilon of its updates (private mode) and of its noisy signatures, or why it is unknown."""
    rounds = config.rounds
    signed = {s.device_id: s for s in store.signatures.all() if s.noise is not None}
    sent = store.rounds.update_counts() if rounds.private else {}
    result: dict[str, dict[str, float] | str] = {}
    for device_id in sorted(sent.keys() | signed.keys()):
        try:
            one: dict[str, float] = {}
            if device_id in sent:
                one["updates"] = update_epsilon(rounds.noise_multiplier, sent[device_id], rounds.delta)
            signature = signed.get(device_id)
            if signature is not None and signature.noise is not None:
                one["signature"] = gaussian_epsilon(signature.noise, signature.sequence, rounds.delta)
            result[device_id] = one
        except ConfigError as error:
            result[device_id] = str(error)
    return result


def _epsilon_lines(data: Data) -> list[str]:
    """Return a line per device that spent privacy; the same reason for all is said once."""
    spent = {d["device_id"]: d["epsilon"] for d in data["devices"] if d["epsilon"] is not None}
    if not spent:
        return []
    if all(isinstance(value, str) for value in spent.values()):
        return ["", *_wrap(f"privacy spent: {next(iter(spent.values()))}")]
    lines = ["", "privacy spent (epsilon):"]
    for device_id, value in spent.items():
        shown = value if isinstance(value, str) else ", ".join(f"{what} {e:.1f}" for what, e in value.items())
        lines.append(f"  {device_id:<32} {shown}")
    return lines


def _status_text(data: Data) -> str:
    opened = "" if data["open_round"] is None else f", round {data['open_round']} is open"
    lines = [f"rounds: {data['rounds_done']} done, {data['rounds_expired']} expired{opened}"]
    search = data["search"]
    lines += _wrap("families: " + ("not looked for yet" if search is None else search["reason"]))
    rows = [
        (
            d["device_id"],
            ("yes" if d["online"] else "no") if d["refusal"] is None else d["refusal"],
            d["state"],
            str(d["train_rows"]),
            (d["assignment"] or {}).get("family_id") or "-",
            "-" if d["active"] is None else f"{d['active']['active']['role']} {d['active']['active']['digest'][:8]}",
        )
        for d in data["devices"]
    ]
    lines += ["", *_table(("device", "online", "state", "rows", "family", "in use"), rows)]
    lines += _epsilon_lines(data)
    if data["quarantined"]:
        confined = data["quarantined"].items()
        lines += ["", "quarantined:", *(f"  {name:<32} {q['reason']:<20} until {q['until']}" for name, q in confined)]
    if data["refusals"]:
        lines += ["", "refused:", *(f"  {reason:<40} {count:>8}" for reason, count in data["refusals"].items())]
    return "\n".join(lines)


def _families_text(data: Data) -> str:
    lines = _wrap("last search: " + (data["search"] or "none yet"))
    for family in data["families"]:
        expert = "the fallback" if family["shared"] else (family["expert"] or "none yet")[:_SHORT]
        lines += ["", f"{family['family_id']}: {len(family['members'])} devices, expert {expert}"]
        lines += _wrap(", ".join(family["members"]), indent="  ")
    lines += ["", "why:"]
    for d in data["devices"]:
        alike = d["sketch_agreement"]
        odd = "" if alike is None or alike >= 0.0 else f"; its updates pull against its family's ({alike:.2f})"
        lines += _wrap(f"{d['device_id']}: {d['family_id'] or 'fallback'}, {d['reason']}{odd}", indent="  ")
    return "\n".join(lines)


def _why_text(data: Data) -> str:
    if not data["decisions"]:
        return f"{data['device_id']}: no decision yet; is it known? see kinwatch-gateway status"
    lines = []
    for d in data["decisions"]:
        lines += _wrap(f"{d['at']} after round {d['round']}: {d['family_id'] or 'fallback'}, {d['reason']}")
    active = data["active"]
    if active is not None:
        gain = "" if active["gain"] is None else f", gain {active['gain']:.0%}, z {active['z']:.1f}"
        model = active["active"]
        lines += _wrap(
            f"in use: the {model['role']} model {model['digest'][:_SHORT]}, {active['reason']}{gain}, "
            f"judged on {active['validation_rows']} rows"
        )
    return "\n".join(lines)


def _models_text(data: Data) -> str:
    rows = [
        (
            m["digest"][:_SHORT],
            m["role"],
            m["family_id"] or "-",
            str(m["round"]),
            (m["parent"] or "-")[:_SHORT],
            "current" if m["current"] else "",
        )
        for m in data["models"]
    ]
    return "\n".join(_table(("digest", "role", "family", "round", "parent", ""), rows))


def _reports_text(data: Data) -> str:
    rows = [
        (r["run_id"], r["device_id"], r["active"]["role"], str(r["exam_rows"]), str(len(r["scores"])))
        for r in data["reports"]
    ]
    return "\n".join(_table(("run", "device", "in use", "exam rows", "models"), rows))


def alerts_text(data: Data) -> str:
    """Return alerts as a table; flow ids stay whole, since a verdict names them."""
    rows = [
        (
            a["kinwatch"]["device_id"],
            str(a["flow_id"]),
            a["kinwatch"]["attack_class"],
            f"{a['kinwatch']['score']:.3f}",
            a["verdict"] or "-",
            f"{a['src_ip']} > {a['dest_ip']}:{a['dest_port']}",
        )
        for a in data["alerts"]
    ]
    return "\n".join(_table(("device", "flow", "class", "score", "verdict", "who"), rows))


def _round(stored: StoredRound) -> Data:
    return {
        "number": stored.number,
        "state": stored.state,
        "reason": stored.reason,
        "opened": _time(stored.opened_s),
        "seconds": None if stored.closed_s is None else round(stored.closed_s - stored.opened_s, 3),
        "invited": stored.invited,
        "updates": stored.updates,
        "targets": [
            {
                "target": r.target,
                "digest": r.digest,
                "devices": list(r.devices),
                "reason": r.reason,
                "measurements": r.measurements,
            }
            for r in stored.results
        ],
    }


def _members(store: Store) -> dict[str, list[str]]:
    result: dict[str, list[str]] = {family.family_id: [] for family in store.families.living()}
    for stored in store.families.last_decisions():
        if stored.decision.family_id in result:
            result[stored.decision.family_id].append(stored.decision.device_id)
    return result


def _decision(stored: StoredDecision) -> Data:
    d = stored.decision
    return {
        "at": _time(stored.at_s),
        "round": d.round_number,
        "device_id": d.device_id,
        "family_id": d.family_id,
        "kind": d.kind,
        "reason": d.reason,
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _wrap(text: str, *, indent: str = "") -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=indent + "  ")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    # The first column holds ids of up to 32 characters: the others give way first.
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()[:_WIDTH]
        for row in [header, *rows]
    ]


DATA: Mapping[str, Callable[[Store], Data]] = {
    "families": families,
    "models": models,
    "reports": reports,
}
TEXT: Mapping[str, Callable[[Data], str]] = {
    "status": _status_text,
    "families": _families_text,
    "models": _models_text,
    "reports": _reports_text,
}
WHY: Callable[[Data], str] = _why_text
