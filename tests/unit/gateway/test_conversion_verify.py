"""The gate: the packaged artifact passes, and every kind of wrong artifact is named."""

from importlib.resources import files

import numpy as np
import pytest

from contract.canonical import sha256_hex
from contract.exit_codes import ExitCode
from contract.initial import initial_theta
from contract.model import DEFAULT_SPEC, ArtifactManifest, ModelSpec
from gateway import cli
from gateway.conversion import commands, verify
from gateway.conversion.reference import reference_gradient, reference_inference, reference_sums
from gateway.conversion.verify import ArtifactError

pytest.importorskip("ai_edge_litert.schema_py_generated")

TINY = ModelSpec.model_validate(
    {**DEFAULT_SPEC.model_dump(), "inputs": 5, "classes": 3, "hidden": (6, 4), "train_batch": 4}
)


@pytest.fixture(scope="module")
def packaged():
    folder = files("device_agent.artifacts")
    manifest = ArtifactManifest.model_validate_json(folder.joinpath("two_head_v1.json").read_bytes())
    return folder.joinpath("two_head_v1.tflite").read_bytes(), manifest


def restated(manifest, blob=None, **changes):
    if blob is not None:
        changes |= {"sha256": sha256_hex(blob), "size_bytes": len(blob)}
    return manifest.model_copy(update=changes)


def test_the_packaged_artifact_passes(packaged):
    blob, manifest = packaged
    lines = verify.verify_artifact(blob, manifest)
    assert [line.split(":")[0] for line in lines] == [
        "size and digest",
        "operators",
        "signatures",
        "grad",
        "grad with focal exponent 2",
        "infer",
        "evaluate",
    ]
    assert manifest.spec.spec_id == DEFAULT_SPEC.spec_id


def test_size_and_digest_come_before_any_parser(packaged, monkeypatch):
    blob, manifest = packaged
    monkeypatch.setattr(verify, "operators", lambda _: pytest.fail("the parser got the file"))
    with pytest.raises(ArtifactError, match="size"):
        verify.verify_artifact(blob[:-1], manifest)
    with pytest.raises(ArtifactError, match="digest"):
        verify.verify_artifact(blob[:-1] + b"\x01", manifest)


def test_bytes_that_are_no_model_are_refused(packaged):
    blob = b"not a model at all"
    with pytest.raises(ArtifactError, match=r"no \.tflite"):
        verify.verify_artifact(blob, restated(packaged[1], blob))


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        ("CUSTOM:FlexReluGrad/1", "not built in"),
        ("VAR_HANDLE/1", "keeps state"),
        ("FULLY_CONNECTED/12", "newer than version 1"),
    ],
)
def test_operators_outside_the_rule_are_refused(operator, message):
    with pytest.raises(ArtifactError, match=message):
        verify.check_operators(("ADD/1", operator))


def test_operators_other_than_the_manifests_are_refused(packaged):
    blob, manifest = packaged
    with pytest.raises(ArtifactError, match="operators: the file's differ"):
        verify.verify_artifact(blob, restated(manifest, operators=manifest.operators[1:]))


def test_an_artifact_of_another_architecture_is_refused(packaged):
    blob, manifest = packaged
    spec = ModelSpec.model_validate({**DEFAULT_SPEC.model_dump(), "hidden": (48, 23)})
    with pytest.raises(ArtifactError, match="signatures: inputs of"):
        verify.verify_artifact(blob, restated(manifest, spec=spec))


class Fake:
    """An interpreter with the right signatures whose mathematics can be off."""

    def __init__(self, fault=None):
        self.fault = fault

    def get_signature_runner(self, name):
        def run(**inputs):
            theta = inputs.pop("theta")
            if name == "infer":
                out = reference_inference(TINY, theta, inputs["x"])
            elif name == "evaluate":
                out = reference_sums(TINY, theta, inputs)
            else:
                weight, gamma = (float(inputs.pop(name)[0]) for name in ("recon_weight", "gamma"))
                out = reference_gradient(TINY, theta, inputs, recon_weight=weight, gamma=gamma)
            if self.fault is not None and self.fault[0] == name:
                self.fault[1](out)
            return out

        return run


def scale(key, factor):
    def apply(out):
        out[key] = out[key] * factor

    return apply


def transpose(out):
    out["confusion"] = out["confusion"].T


def swap(out):
    out["grad"] = out["grad"][::-1]


@pytest.mark.parametrize(
    "fault",
    [
        ("grad", swap),
        ("grad", scale("grad", 1.001)),
        ("grad", scale("loss_class", 0.999)),
        ("grad", scale("loss_recon", 1.001)),
        ("infer", scale("err", 1.001)),
        ("evaluate", scale("wr_sum", 2.0)),
        ("evaluate", transpose),
    ],
)
def test_wrong_mathematics_is_refused(fault):
    verify.check_mathematics(Fake(), TINY)
    with pytest.raises(ArtifactError, match=f"^{fault[0]}: differs"):
        verify.check_mathematics(Fake(fault), TINY)


@pytest.mark.parametrize("heads", ["both", "classifier", "reconstruction"])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_the_yardstick_itself_equals_numerical_differentiation(heads, gamma):
    spec = ModelSpec.model_validate({**TINY.model_dump(), "heads": heads})
    rng = np.random.default_rng(2)
    theta = initial_theta(spec.layout, rng).astype(np.float64) + rng.normal(0, 0.05, spec.n_parameters)
    rows = {
        "x": rng.uniform(0, 3, (9, 5)),
        "y": rng.integers(-1, 3, 9).astype(np.int32),
        "wc": rng.uniform(0.1, 2, 9),
        "wr": rng.uniform(0.1, 2, 9),
    }

    def loss(weights):
        out = reference_gradient(spec, weights, rows, recon_weight=0.6, gamma=gamma)
        return out.get("loss_class", 0.0) + 0.6 * out.get("loss_recon", 0.0)

    step = 1e-6
    numeric = [
        (loss(theta + step * unit) - loss(theta - step * unit)) / (2 * step) for unit in np.eye(spec.n_parameters)
    ]
    grad = reference_gradient(spec, theta, rows, recon_weight=0.6, gamma=gamma)["grad"]
    np.testing.assert_allclose(grad, numeric, atol=1e-7)


def test_commands_report_missing_and_broken_files(tmp_path, packaged):
    blob, manifest = packaged
    path = tmp_path / "m.tflite"
    assert commands.verify(path).code == ExitCode.MODEL
    assert "cannot read" in commands.inspect(path).text
    path.write_bytes(blob)
    path.with_suffix(".json").write_text("{}")
    assert "no artifact manifest" in commands.verify(path).text
    path.with_suffix(".json").write_text(manifest.model_dump_json())
    outcome = commands.verify(path)
    assert (outcome.code, outcome.text.count("ok  ")) == (ExitCode.OK, 7)
    assert f"parameters {manifest.spec.n_parameters}" in commands.inspect(path).text


def test_build_without_tensorflow_names_the_way_out(tmp_path):
    """A Python without site packages stands for one without TensorFlow."""
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'tensorflow'\" >&2\nexit 1\n")
    fake.chmod(0o755)
    outcome = commands.build(tmp_path / "out", python=str(fake))
    assert outcome.code == ExitCode.MODEL
    assert "install the extra 'convert'" in outcome.text
    assert not (tmp_path / "out").exists()


def test_build_refuses_a_spec_file_that_is_none(tmp_path):
    path = tmp_path / "spec.json"
    assert "cannot read" in commands.build(tmp_path, spec_file=path).text
    path.write_text("{}")
    assert "is no model spec" in commands.build(tmp_path, spec_file=path).text


def test_an_export_without_weights_or_with_a_model_that_nobody_has_is_one_line(tmp_path, capsys):
    assert cli.main(["model", "build", "--int8"]) == ExitCode.USAGE
    assert "--weights" in capsys.readouterr().err
    assert cli.main(["model", "build", "--int8", "--weights", "fallback", "--out", str(tmp_path)]) == ExitCode.MODEL
    assert capsys.readouterr().err.strip() == ("fallback is no file, and without --config no store to look for a model")
