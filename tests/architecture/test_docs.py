"""Generated pages are fresh."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_generated_pages_are_fresh():
    done = subprocess.run(
        [sys.executable, "scripts/generate-docs", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_scripts_and_links_of_a_page_exist(page):
    text = page.read_text(encoding="utf-8")
    for name in set(re.findall(r"(?<![\w/.-])scripts/[a-z][\w/-]*[a-z]", text)):
        target = ROOT / name
        assert target.is_dir() or os.access(target, os.X_OK), f"{page.name} names {name}"
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (page.parent / link).exists(), f"{page.name} links to {link}"


@pytest.mark.parametrize("program", ["agent", "gateway", "testbed"])
def test_subcommands_that_pages_show_exist(program):
    """``kinwatch-<program> <subcommand>`` in any page answers to --help."""
    shown = set()
    for page in PAGES:
        shown |= set(re.findall(rf"kinwatch-{program} ([a-z][a-z-]+)[ `|\n]", page.read_text(encoding="utf-8")))
    module = {"agent": "device_agent", "gateway": "gateway", "testbed": "testbed"}[program]
    offered = subprocess.run(
        [sys.executable, "-c", f"from {module}.cli import main; main(['--help'])"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    ).stdout
    listed = set(re.findall(r"^ {4}([a-z][a-z-]+)(?: {2,}|$)", offered, flags=re.MULTILINE))
    assert {"run", "demo"} & listed, offered
    unknown = shown - listed
    assert not unknown, f"pages show {sorted(unknown)}, kinwatch-{program} has {sorted(listed)}"
