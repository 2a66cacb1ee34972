"""Print what a lock file installs elsewhere: usage: locked.py LOCK PYTHON MACHINE NAME...; ``name==version`` a line."""

import sys
from pathlib import Path

from pip._vendor.packaging.requirements import InvalidRequirement, Requirement


def main(lock: str, python: str, machine: str, *names: str) -> int:
    """Print the pin of each name for Linux on that machine; return 1 if one has none there."""
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": machine,
        "sys_platform": "linux",
    }
    pins = {}
    for line in Path(lock).read_text(encoding="utf-8").splitlines():
        try:
            pin = Requirement(line.strip().removesuffix("\\"))
        except InvalidRequirement:  # hashes and comments
            continue
        if pin.marker is None or pin.marker.evaluate(environment):
            pins[pin.name] = f"{pin.name}{pin.specifier}"
    missing = [name for name in names if name not in pins]
    if missing:
        print(f"{lock} has no {', '.join(missing)} for Python {python} on {machine}", file=sys.stderr)
        return 1
    print("\n".join(pins[name] for name in names))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
