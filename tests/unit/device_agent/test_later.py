"""Modules that are not used do not come into the agent's process."""

import subprocess
import sys
from types import ModuleType

import pytest

from device_agent import version
from device_agent.later import put_off

UNWANTED = ("email.message", "http.client", "zipfile", "csv", "html.entities", "difflib", "tempfile", "bz2")
CODE = f"""
import os, sys
os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"  # as the command does
from device_agent.later import put_off
put_off()
import device_agent.cli, device_agent.service, device_agent.capture.files, device_agent.capture.heads
print([name for name in {UNWANTED!r} if type(sys.modules.get(name)).__name__ == "module"])
import html
from urllib.request import quote
print(html.escape("<"), quote("a b"), sys.modules["html"].__name__, "html.entities" in sys.modules)
"""


def test_the_agent_and_its_libraries_start_without_them_and_find_them_when_needed() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=60)
    unwanted, found = done.stdout.splitlines()
    assert unwanted == "[]"
    assert found == "&lt; a%20b html True"


def test_a_function_imported_by_name_loads_its_module_when_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    put_off({"colorsys": ("rgb_to_hsv",)})
    from colorsys import rgb_to_hsv

    assert type(sys.modules["colorsys"]) is not ModuleType
    assert rgb_to_hsv(0.0, 0.0, 1.0) == (2 / 3, 1.0, 1.0)
    assert type(sys.modules["colorsys"]) is ModuleType


def test_a_loaded_module_stays_and_a_missing_name_is_an_error() -> None:
    before = sys.modules["subprocess"]
    put_off({"subprocess": ()})
    assert sys.modules["subprocess"] is before
    put_off({"this_module_is_missing": ()})
    stand_in = sys.modules.pop("this_module_is_missing")
    with pytest.raises(AttributeError):
        _ = stand_in.__path__
    with pytest.raises(ModuleNotFoundError):
        _ = stand_in.anything


def test_the_version_is_that_of_the_metadata(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(sys, "path", ["", str(tmp_path)])
    assert version.package_version() == "0+unknown"
    (tmp_path / "kinwatch-1.2.3.dist-info").mkdir()
    (tmp_path / "kinwatch_fast-9.9.dist-info").mkdir()
    assert version.package_version() == "1.2.3"
