"""What the agent says about itself: memory of processes, birth, and counters folded into one message."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path

from contract import CONTRACT_VERSION
from contract.features import SCHEMA_ID
from contract.messages import Birth

_MAX_COUNTERS = 256
_MAX_NAME = 64


def rss_bytes(pid: int | None = None) -> int:
    """Return the resident memory of a process (this one by default), 0 where it is unknown."""
    try:
        fields = Path(f"/proc/{pid or os.getpid()}/statm").read_text(encoding="ascii").split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def merge_counters(*groups: Mapping[str, int]) -> dict[str, int]:
    """Add up counters by name; zeros are left out, and names beyond the message's bound go to ``other``."""
    total: dict[str, int] = {}
    for group in groups:
        for name, value in group.items():
            if value:
                total[name[:_MAX_NAME]] = total.get(name[:_MAX_NAME], 0) + value
    names = sorted(total)
    kept = {name: total[name] for name in names[: _MAX_COUNTERS - 1]}
    rest = sum(total[name] for name in names[_MAX_COUNTERS - 1 :])
    return kept | ({"other": rest} if rest else {})


def make_birth(
    *, device_id: str, session: str, version: str, board: str, engine: str, engine_reason: str, spec_id: str
) -> Birth:
    """Return the birth message of this process."""
    return Birth(
        device_id=device_id,
        session=session,
        contract_version=CONTRACT_VERSION,
        agent_version=version,
        board=board,
        system=f"{platform.system()} {platform.release()} {platform.machine()}"[:120],
        python=platform.python_version(),
        engine=engine,
        engine_reason=engine_reason[:400],
        schema_id=SCHEMA_ID,
        spec_id=spec_id,
    )
