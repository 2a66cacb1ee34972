"""Print what a lock file installs on another machine; pip judges its markers by the Python that it runs on itself.

locked.py LOCK PYTHON MACHINE           every package as ``name==version --hash=...``, for ``pip -r``
locked.py LOCK PYTHON MACHINE NAME...   these alone, ``name==version`` a line
"""

import re
import sys
from pathlib import Path

from pip._vendor.packaging.requirements import InvalidRequirement, Requirement


def pins(lock: str, python: str, machine: str) -> dict[str, tuple[str, list[str]]]:
    """Return for each package on Linux on that machine ``name==version`` and its hashes.

    Raises
    ------
    ValueError
        If a line is no requirement, a package has no hash, or the version is not written as 3.13.
    """
    if not re.fullmatch(r"\d+\.\d+", python):
        raise ValueError(f"{python}: write the Python of the machine as 3.13")
    environment = {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }
    found = {}
    lines = (line for line in lock.splitlines() if not line.lstrip().startswith("#"))
    for entry in "\n".join(lines).replace("\\\n", " ").splitlines():
        if not entry.strip():
            continue
        written, *hashes = re.split(r"\s+--hash=", entry.strip())
        try:
            pin = Requirement(written)
        except InvalidRequirement as error:
            raise ValueError(f"{written}: no requirement") from error
        if not hashes:
            raise ValueError(f"{pin.name}: has no hash")
        if pin.marker is None or pin.marker.evaluate(environment):
            found[pin.name] = f"{pin.name}{pin.specifier}", hashes
    return found


def main(lock: str, python: str, machine: str, *names: str) -> int:
    """Print the pin of each name, or all with their hashes; return 1 if there is none, or the lock cannot be read."""
    try:
        found = pins(Path(lock).read_text(encoding="utf-8"), python, machine)
    except (OSError, ValueError) as error:
        print(f"{lock}: {error}", file=sys.stderr)
        return 1
    missing = [name for name in names if name not in found]
    if missing:
        print(f"{lock} has no {', '.join(missing)} for Python {python} on {machine}", file=sys.stderr)
        return 1
    if names:
        print("\n".join(found[name][0] for name in names))
    else:
        print("\n".join(" --hash=".join((pin, *hashes)) for pin, hashes in found.values()))
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 4:
        print(__doc__, file=sys.stderr)
        raise SystemExit(2)
    raise SystemExit(main(*sys.argv[1:]))
