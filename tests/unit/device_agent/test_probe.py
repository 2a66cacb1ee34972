"""Trying the runtime in a process of its own: also one that dies of it answers."""

import pytest

from contract.model import DEFAULT_SPEC
from device_agent.inference import select
from device_agent.inference.opening import EngineError
from device_agent.inference.probe import probe
from tests.unit.device_agent.nets import TINY

ARTIFACT = select.load_artifact(DEFAULT_SPEC)


def test_a_working_runtime_is_named_and_not_loaded_here():
    pytest.importorskip("ai_edge_litert", reason="needs LiteRT")
    assert probe(DEFAULT_SPEC.layout, ARTIFACT) == ("litert", "LiteRT passed its self test")


def test_an_artifact_of_another_shape_means_numpy():
    name, reason = probe(TINY, ARTIFACT)
    assert name == "numpy"
    assert reason.startswith("NumPy, since")


def test_a_process_that_dies_of_the_runtime_means_numpy(tmp_path):
    """An illegal instruction of a foreign wheel ends the probe, not the agent."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nkill -ILL $$\n", encoding="ascii")
    python.chmod(0o755)
    assert probe(DEFAULT_SPEC.layout, ARTIFACT, python=str(python)) == (
        "numpy",
        "NumPy, since trying the runtime ended with exit code -4",
    )
    name, reason = probe(DEFAULT_SPEC.layout, ARTIFACT, python=str(tmp_path / "absent"))
    assert name == "numpy"
    assert "could not be tried" in reason


def test_the_choice_for_training(monkeypatch):
    """Without a runtime NumPy trains and says why; who insists on LiteRT gets an error."""
    assert select.choose_training_engine(DEFAULT_SPEC, "numpy").artifact is None
    monkeypatch.setattr(select, "probe", lambda *_args: ("numpy", "NumPy, since no LiteRT runtime"))
    chosen = select.choose_training_engine(DEFAULT_SPEC)
    assert (chosen.name, chosen.reason, chosen.artifact) == ("numpy", "NumPy, since no LiteRT runtime", None)
    with pytest.raises(EngineError, match=r"^no LiteRT runtime$"):
        select.choose_training_engine(DEFAULT_SPEC, "litert")
    monkeypatch.setattr(select, "probe", lambda *_args: ("litert", "fine"))
    assert select.choose_training_engine(DEFAULT_SPEC).artifact == ARTIFACT
