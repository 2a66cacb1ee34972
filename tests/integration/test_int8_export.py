"""The int8 export from build to scoring, and what its gate and its loader refuse."""

import json

import numpy as np
import pytest

from contract.canonical import sha256_hex
from contract.exit_codes import ExitCode
from contract.initial import initial_theta
from contract.model import AUTOENCODER_SPEC, CLASSIFIER_SPEC, DEFAULT_SPEC, weights_to_bytes
from device_agent.inference.int8 import Int8Scorer, read_export
from device_agent.inference.numpy_engine import NumpyEngine
from device_agent.inference.opening import EngineError
from gateway import cli
from gateway.conversion import verify
from gateway.conversion.artifact import read_manifest
from gateway.conversion.export import build_export, verify_export
from gateway.conversion.sources import synthetic_rows
from gateway.conversion.verify import ArtifactError

pytestmark = [pytest.mark.convert, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def built(tmp_path_factory, python):
    """The export of a two-headed net, its weights and its path, by the command line."""
    folder = tmp_path_factory.mktemp("int8")
    theta = initial_theta(DEFAULT_SPEC.layout, 4)
    (folder / "theta.bin").write_bytes(weights_to_bytes(theta))
    arguments = ["model", "build", "--int8", "--weights", str(folder / "theta.bin"), "--out", str(folder)]
    assert cli.main([*arguments, "--python", python]) == ExitCode.OK
    (path,) = folder.glob("two_head_v1_int8_*.tflite")
    return path, theta


def rows(n=300):
    """Rows like those of the build, not the same ones: outside their range int8 saturates."""
    return synthetic_rows(DEFAULT_SPEC, [], np.random.default_rng(99))[0][:n]


def test_it_is_smaller_than_its_weights_and_scores_like_float(built):
    path, theta = built
    manifest, blob = read_export(path)
    assert len(blob) < 4 * len(theta)
    x = rows()
    seen = Int8Scorer(manifest.spec.layout, blob).infer(x)
    wanted = NumpyEngine(manifest.spec.layout).infer(theta, x)
    assert np.abs(seen.probs - wanted.probs).max() < 0.05
    np.testing.assert_allclose(seen.err, wanted.err, rtol=0.05)
    assert len(np.unique(seen.err)) > 250, "scores must not collapse to a few levels"


def test_verify_names_what_it_checked_with_and_without_the_weights(built, tmp_path, capsys):
    path, theta = built
    (tmp_path / "theta.npy").write_bytes(b"")
    np.save(tmp_path / "theta.npy", theta)
    assert cli.main(["model", "verify", str(path)]) == ExitCode.OK
    assert "as the manifest says" in capsys.readouterr().out
    assert cli.main(["model", "verify", str(path), "--weights", str(tmp_path / "theta.npy")]) == ExitCode.OK
    assert "with the weights given" in capsys.readouterr().out
    assert cli.main(["model", "inspect", str(path)]) == ExitCode.OK
    assert "int8 of" in capsys.readouterr().out
    np.save(tmp_path / "theta.npy", theta + 1)
    assert cli.main(["model", "verify", str(path), "--weights", str(tmp_path / "theta.npy")]) == ExitCode.MODEL
    assert "not of the release" in capsys.readouterr().err


def test_the_gate_refuses_operators_outside_the_list_and_files_that_differ(built, monkeypatch):
    path, _ = built
    blob, manifest = read_manifest(path)
    with pytest.raises(ArtifactError, match="size"):
        verify_export(blob[:-1], manifest)
    for found, message in (
        (("CUSTOM:FlexErf/1",), "not built in"),
        (("FULLY_CONNECTED/12",), "newer than version 4"),
        (("FULLY_CONNECTED/4", "TANH/1"), "should not be"),
    ):
        monkeypatch.setattr(verify, "operators", lambda _, found=found: found)
        with pytest.raises(ArtifactError, match=message):
            verify_export(blob, manifest.model_copy(update={"operators": found}))


def test_a_file_whose_results_are_off_is_refused(built):
    path, _ = built
    blob, manifest = read_manifest(path)
    for wrong in ({"class_agreement": 0.9}, {"reconstruction_error": 0.5}):
        with pytest.raises(ArtifactError, match="agreement"):
            verify_export(blob, manifest.model_copy(update=wrong))


def test_the_loader_checks_schema_size_and_digest_before_the_runtime_sees_a_byte(built, tmp_path):
    path, _ = built
    manifest, blob = json.loads(path.with_suffix(".json").read_text()), path.read_bytes()
    copy = tmp_path / "export.tflite"

    def stored(data, **changes):
        copy.write_bytes(data)
        copy.with_suffix(".json").write_text(json.dumps(manifest | changes))
        return copy

    foreign = manifest["spec"] | {"schema_id": "0" * 64}
    for data, changes, message in (
        (blob, {"spec": foreign}, "schema"),
        (blob[:-9], {}, "bytes"),
        (blob[:-1] + bytes([blob[-1] ^ 1]), {}, "SHA-256"),
        (blob, {"operators": 3}, "no export manifest"),
    ):
        with pytest.raises(EngineError, match=message):
            read_export(stored(data, **changes))
    with pytest.raises(ValueError, match="refuses"):
        Int8Scorer(DEFAULT_SPEC.layout, b"TFL3 is not enough")
    assert sha256_hex(read_export(stored(blob))[1]) == manifest["sha256"]


@pytest.mark.parametrize("spec", [CLASSIFIER_SPEC, AUTOENCODER_SPEC], ids=lambda spec: spec.name)
def test_nets_of_one_head_can_be_exported(tmp_path, python, spec):
    theta = initial_theta(spec.layout, 5)
    path, manifest, passed = build_export(spec, theta, rows(), tmp_path, representative="test", python=python)
    assert len(passed) == 4
    seen = Int8Scorer(spec.layout, path.read_bytes()).infer(rows(40))
    wanted = NumpyEngine(spec.layout).infer(theta, rows(40))
    np.testing.assert_allclose(seen.probs, wanted.probs, atol=0.05)
    np.testing.assert_allclose(seen.err, wanted.err, rtol=0.05)
    assert manifest.operators == verify.operators(path.read_bytes())
