"""Choice of the engine: what is checked before a runtime sees a file, and what happens when something is off."""

from pathlib import Path

import pytest

from contract.model import DEFAULT_SPEC, ModelSpec
from device_agent.inference import opening, select
from device_agent.inference.litert import LiteRTEngine, RuntimeMissingError
from device_agent.inference.numpy_engine import NumpyEngine
from device_agent.inference.opening import EngineError
from tests.unit.device_agent.nets import TINY


class NeverLoaded:
    """Stands for a runtime that must not be reached."""

    def __init__(self, *_args):
        raise AssertionError("the runtime got the file")


def changed(**changes) -> ModelSpec:
    return ModelSpec.model_validate({**DEFAULT_SPEC.model_dump(), **changes})


def manifest_and_blob():
    folder = Path(select.__file__).parents[1] / "artifacts"
    manifest = select.ArtifactManifest.model_validate_json(folder.joinpath("two_head_v1.json").read_bytes())
    return manifest, folder.joinpath("two_head_v1.tflite").read_bytes()


def test_the_packaged_artifact_fits_the_default_spec():
    """It has to be rebuilt whenever schema, taxonomy or architecture change."""
    assert len(select.load_artifact(DEFAULT_SPEC)) == manifest_and_blob()[0].size_bytes


def test_litert_is_preferred_where_it_is_installed():
    pytest.importorskip("ai_edge_litert.interpreter")
    loaded = select.load_engine(DEFAULT_SPEC)
    assert (loaded.engine.name, loaded.reason) == ("litert", "LiteRT passed its self test")


def test_numpy_on_request():
    assert select.load_engine(DEFAULT_SPEC, "numpy").engine.name == "numpy"


@pytest.mark.parametrize(
    ("damage", "message"),
    [(lambda b: b[:-1], "bytes"), (lambda b: b[:-1] + bytes([b[-1] ^ 1]), "SHA-256")],
    ids=["truncated", "one bit"],
)
def test_a_damaged_file_never_reaches_the_runtime(monkeypatch, damage, message):
    """Older runtimes crash on such files; the agent uses NumPy and says why."""
    manifest, blob = manifest_and_blob()
    with pytest.raises(EngineError, match=message):
        select.check_artifact(DEFAULT_SPEC, manifest, damage(blob))

    def read_damaged(spec):
        select.check_artifact(spec, manifest, damage(blob))

    monkeypatch.setattr(opening, "LiteRTEngine", NeverLoaded)
    monkeypatch.setattr(select, "load_artifact", read_damaged)
    loaded = select.load_engine(DEFAULT_SPEC)
    assert loaded.engine.name == "numpy"
    assert message in loaded.reason
    with pytest.raises(EngineError, match=message):
        select.load_engine(DEFAULT_SPEC, "litert")


def test_an_artifact_of_another_spec_is_refused():
    manifest, blob = manifest_and_blob()
    with pytest.raises(EngineError, match="built for spec"):
        select.check_artifact(changed(hidden=(32, 16)), manifest, blob)


def test_without_an_artifact_numpy_steps_in():
    loaded = select.load_engine(changed(name="unknown"))
    assert loaded.engine.name == "numpy"
    assert "no artifact for model unknown version 1" in loaded.reason


def test_without_a_runtime_numpy_steps_in(monkeypatch):
    def missing(*_args):
        raise RuntimeMissingError("no LiteRT runtime: none installed")

    monkeypatch.setattr(opening, "LiteRTEngine", missing)
    loaded = select.load_engine(DEFAULT_SPEC)
    assert (loaded.engine.name, loaded.reason) == ("numpy", "NumPy, since no LiteRT runtime: none installed")
    with pytest.raises(EngineError, match="none installed"):
        select.load_engine(DEFAULT_SPEC, "litert")


class Wrong(NumpyEngine):
    """An engine with a fault in one place."""

    fault = ""

    def gradient(self, *args, **options):
        out = super().gradient(*args, **options)
        if self.fault == "gradient":
            out.grad[len(out.grad) // 2] *= 1.5
            out.grad[0] += 0.01
        return out

    def infer(self, theta, x):
        out = super().infer(theta, x)
        if self.fault == "err":
            out.err[:] *= 1.01
        if self.fault == "nan":
            out.probs[0, 0] = float("nan")
        return out


@pytest.mark.parametrize("fault", ["gradient", "err", "nan"])
def test_the_self_test_finds_a_wrong_engine(fault):
    engine = Wrong(TINY)
    opening.self_test(engine)
    engine.fault = fault
    with pytest.raises(EngineError, match="self test"):
        opening.self_test(engine)


def test_a_wrong_runtime_is_not_used(monkeypatch):
    """The file is right, the runtime computes nonsense: NumPy."""
    _, blob = manifest_and_blob()

    class Biased(Wrong):
        fault = "gradient"

        def __init__(self, layout, _blob):
            super().__init__(layout)

    monkeypatch.setattr(opening, "LiteRTEngine", Biased)
    loaded = opening.open_engine(DEFAULT_SPEC.layout, blob)
    assert not isinstance(loaded.engine, LiteRTEngine | Biased)
    assert "fails its self test: gradient" in loaded.reason
