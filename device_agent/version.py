"""The version of the installed package, read from the name of its folder of metadata.

``importlib.metadata`` would bring modules for archives, mail headers and tables: 4 MB in a process that stays.
"""

import sys
from pathlib import Path


def package_version() -> str:
    """Return the version of the installed package; ``0+unknown`` in a tree that was never installed."""
    for folder in sys.path:
        for metadata in Path(folder or ".").glob("kinwatch-*.dist-info"):
            return metadata.name.removeprefix("kinwatch-").removesuffix(".dist-info")
    return "0+unknown"
