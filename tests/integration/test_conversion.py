"""Rebuilding the packaged artifact gives the same behaviour."""

from importlib.resources import files

import numpy as np
import pytest

from contract.initial import initial_theta
from contract.model import DEFAULT_SPEC, ModelSpec
from gateway.conversion.artifact import build_artifact, read_artifact
from gateway.conversion.verify import expected_signatures

pytestmark = pytest.mark.convert


def outputs(blob):
    """All outputs of all signatures on seeded inputs."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=blob, num_threads=1)
    interpreter.allocate_tensors()
    rng = np.random.default_rng(5)
    found = {}
    for name, inputs in expected_signatures(DEFAULT_SPEC).items():
        rows = {"theta": initial_theta(DEFAULT_SPEC.layout, 3), "recon_weight": np.float32(0.5)}
        for key, (dtype, signature) in inputs.items():
            shape = tuple(9 if n == -1 else n for n in signature)
            if dtype == "int32":
                rows[key] = rng.integers(-1, DEFAULT_SPEC.classes, shape).astype(np.int32)
            elif key not in rows:
                rows[key] = rng.uniform(0, 2, shape).astype(np.float32)
        runner = interpreter.get_signature_runner(name)
        found |= {f"{name}.{key}": value for key, value in runner(**{k: rows[k] for k in inputs}).items()}
    return found


@pytest.mark.timeout(600)
def test_a_rebuild_behaves_like_the_packaged_file(tmp_path, python):
    manifest, passed = build_artifact(DEFAULT_SPEC, tmp_path, python=python)
    assert len(passed) == 7
    blob, written = read_artifact(tmp_path / "two_head_v1.tflite")
    assert written == manifest
    packaged = outputs(files("device_agent.artifacts").joinpath("two_head_v1.tflite").read_bytes())
    rebuilt = outputs(blob)
    assert rebuilt.keys() == packaged.keys()
    for name, value in packaged.items():
        np.testing.assert_allclose(rebuilt[name], value, atol=1e-6, err_msg=name)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("hidden", [(7,), (9, 8, 5)], ids=["one layer", "three layers"])
def test_other_architectures_pass_the_gate_too(tmp_path, python, hidden):
    spec = ModelSpec.model_validate(
        {**DEFAULT_SPEC.model_dump(), "hidden": hidden, "name": "probe", "inputs": 11, "classes": 4, "train_batch": 8}
    )
    _, passed = build_artifact(spec, tmp_path, python=python)
    assert len(passed) == 7
