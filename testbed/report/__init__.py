"""The page that a run leaves behind: one HTML file that needs nothing else."""

from pathlib import Path

from testbed.demo_results import RunResults


def write_report(results: RunResults, path: Path) -> Path:
    """Write the page of a run and return its path."""
    path.write_text("<!doctype html>", encoding="utf-8")
    return path
