"""The part of a lock file that a machine other than this one needs, its markers evaluated for that machine.

pip judges ``python_version < "3.13"`` and the like by the Python that it runs on, whatever ``--python-version`` says,
and would fetch what the target does not take and leave out what it asks for.

  python scripts/lab/target_requirements.py LOCK PYTHON_VERSION PLATFORM    (agent.lock 3.13 manylinux2014_aarch64)
"""

import re
import sys
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

MACHINES = ("x86_64", "aarch64", "armv7l", "i686")


def environment(python_version: str, platform: str) -> dict[str, str]:
    """Return the markers of a Linux machine with CPython, from a version such as 3.13 and a wheel's platform tag.

    Raises
    ------
    ValueError
        If the version has no two numbers, or the platform names no known machine.
    """
    machine = next((machine for machine in MACHINES if platform.endswith(f"_{machine}")), None)
    if machine is None:
        raise ValueError(f"{platform}: ends in none of {', '.join(MACHINES)}")
    if not re.fullmatch(r"\d+\.\d+", python_version):
        raise ValueError(f"{python_version}: write the Python of the machine as 3.13")
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{python_version}.0",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python_version}.0",
        "python_version": python_version,
        "sys_platform": "linux",
        "extra": "",
    }


def select(lock: str, markers: dict[str, str]) -> list[str]:
    """Return the requirements of a lock file that hold on a machine, without markers and with their hashes.

    Raises
    ------
    ValueError
        If a line is no requirement, or one has no hash.
    """
    kept = []
    text = "\n".join(line for line in lock.splitlines() if not line.lstrip().startswith("#"))
    for entry in filter(None, (part.strip() for part in text.replace("\\\n", " ").splitlines())):
        written, *hashes = re.split(r"\s+--hash=", entry)
        try:
            requirement = Requirement(written)
        except InvalidRequirement as error:
            raise ValueError(f"{written}: no requirement") from error
        if not hashes:
            raise ValueError(f"{requirement.name}: has no hash")
        if requirement.marker is None or requirement.marker.evaluate(markers):
            extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
            kept.append(" --hash=".join((f"{requirement.name}{extras}{requirement.specifier}", *hashes)))
    return kept


def main(arguments: list[str]) -> int:
    if len(arguments) != 3:
        print("usage: target_requirements.py LOCK PYTHON_VERSION PLATFORM", file=sys.stderr)
        return 2
    path, version, platform = arguments
    try:
        print("\n".join(select(Path(path).read_text(encoding="utf-8"), environment(version, platform))))
    except (OSError, ValueError) as error:
        print(f"target_requirements: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
