"""Everything bad that can reach the models of an agent: each is refused with a reason, and the active model stays."""

import sqlite3
from contextlib import closing
from importlib.resources import files

import numpy as np
import pytest

from contract import codec
from contract.canonical import sha256_hex
from contract.messages import Assignment
from contract.model import DEFAULT_SPEC, ArtifactManifest, ModelId, ModelSpec, weights_digest, weights_to_bytes
from contract.topics import RELEASE
from device_agent import effects as f
from device_agent import events as e
from device_agent import facts as k
from device_agent.config import parse_config
from device_agent.detection.calibration import Calibration
from device_agent.inbound import Reader
from device_agent.inference import litert, opening, select
from device_agent.machine import AgentMachine, MachineSettings
from device_agent.memory import Memory, model_id
from device_agent.store.state import HeldModel
from tests.unit.device_agent.test_trust import OTHER, RING, WEIGHTS, release

ACTIVE = ModelId(role="fallback", digest="a" * 64)
GOOD = weights_digest(WEIGHTS)


def machine():
    """A device whose model works and whose gateway wants it to take another one."""
    factory = ModelId(role="factory", digest="f" * 64)
    made = AgentMachine(
        MachineSettings("cam-1", DEFAULT_SPEC.spec_id, factory),
        k.Facts(active=ACTIVE, locally_trained=True),
        held={factory.digest: factory, ACTIVE.digest: ACTIVE},
    )
    wanted = Assignment(
        device_id="cam-1",
        version=1,
        family_id="family-1",
        reason="test",
        fallback=ACTIVE,
        expert=ModelId(role="expert", family_id="family-1", digest=GOOD),
    )
    made.handle(e.AssignmentReceived(wanted), 0.0)
    return made


SHORT = weights_to_bytes(WEIGHTS)[:-4]
FOREIGN = ModelSpec.model_validate({**DEFAULT_SPEC.model_dump(), "schema_id": "0" * 64})


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (release(spec_id=FOREIGN.spec_id), "release-spec"),
        (release(n_parameters=7), "release-length"),
        (release(sent=SHORT), "release-digest"),
        (release(sent=weights_to_bytes(WEIGHTS + 1)), "release-digest"),
        (release(key=OTHER), "trust-unknown-key"),
    ],
    ids=["a foreign feature schema", "another length", "cut short", "other bytes", "an unknown key"],
)
def test_a_bad_release_is_refused_and_the_active_model_stays(found, reason):
    core, reader = machine(), Reader(DEFAULT_SPEC, RING)
    event = reader.read(RELEASE.of(digest=found.manifest.weights_digest), codec.encode(found))
    effects = core.handle(event, 1.0)
    assert f.Refuse(reason) in effects
    assert core.active == ACTIVE
    assert GOOD not in core.held
    assert not [x for x in effects if isinstance(x, f.SwapModel | f.HoldModel | f.DropModel)]
    assert reader.staged == {}


@pytest.mark.parametrize("cut", [1, 100, 5_000])
def test_a_truncated_message_is_refused_and_the_active_model_stays(cut):
    reader = Reader(DEFAULT_SPEC, RING)
    assert reader.read(RELEASE.of(digest=GOOD), codec.encode(release())[:-cut]) is None
    assert sum(reader.refused.values()) == 1


def test_weights_of_the_wrong_length_never_reach_an_engine():
    """The last line of defence: a runtime that is given too few numbers may read beyond them."""
    for engine in engines():
        with pytest.raises(ValueError, match="weights have shape"):
            engine.infer(WEIGHTS[:-1], np.zeros((2, DEFAULT_SPEC.inputs), np.float32))


def engines():
    yield select.load_engine(DEFAULT_SPEC, "numpy").engine
    loaded = select.load_engine(DEFAULT_SPEC)
    if loaded.engine.name == "litert":
        yield loaded.engine


def packaged():
    folder = files("device_agent.artifacts")
    manifest = ArtifactManifest.model_validate_json(folder.joinpath("two_head_v1.json").read_bytes())
    return manifest, folder.joinpath("two_head_v1.tflite").read_bytes()


@pytest.fixture
def put(monkeypatch):
    """Put another artifact in the place of the packaged one; bytes that get to the runtime are noted."""
    reached = []
    original = litert.open_interpreter

    def watched(blob, signatures):
        reached.append(sha256_hex(blob))
        return original(blob, signatures)

    monkeypatch.setattr(litert, "open_interpreter", watched)

    def place(blob, manifest):
        def load(spec):
            select.check_artifact(spec, manifest, blob)
            return blob

        monkeypatch.setattr(select, "load_artifact", load)
        return reached

    return place


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda blob, m: (blob[:-64], m), "bytes"),
        (lambda blob, m: (blob[:999] + b"\x00\x01" + blob[1001:], m), "SHA-256"),
        (lambda blob, m: (blob, m.model_copy(update={"spec": FOREIGN})), "built for spec"),
    ],
    ids=["truncated", "corrupted on disk", "a foreign feature schema"],
)
def test_a_bad_artifact_stays_away_from_the_runtime_and_numpy_trains(put, damage, reason):
    manifest, blob = packaged()
    reached = put(*damage(blob, manifest))
    chosen = select.choose_training_engine(DEFAULT_SPEC)
    assert (chosen.name, chosen.artifact) == ("numpy", None)
    assert reason in chosen.reason
    assert reached == []
    with pytest.raises(opening.EngineError, match=reason):
        select.choose_training_engine(DEFAULT_SPEC, "litert")


def test_an_operator_that_the_runtime_lacks_means_numpy_with_the_reason(put):
    """A file with a right digest and a custom operator in the place of a built-in one, tried in another process."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    flatbuffers = pytest.importorskip("flatbuffers")
    manifest, blob = packaged()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(blob, 0))
    code = model.operatorCodes[0]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = b"FlexReluGrad"
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    odd = bytes(builder.Output())
    put(odd, manifest.model_copy(update={"sha256": sha256_hex(odd), "size_bytes": len(odd)}))
    chosen = select.choose_training_engine(DEFAULT_SPEC)
    assert (chosen.name, chosen.artifact) == ("numpy", None)
    assert chosen.reason.startswith("NumPy, since")


def config(tmp_path):
    data = {"device": {"id": "cam-1"}, "capture": {"source": "-"}, "store": {"dir": str(tmp_path / "state")}}
    return parse_config(data, path=tmp_path / "agent.toml")


@pytest.fixture
def lived(tmp_path):
    """The state directory of an agent that had a model in use; return its configuration and that model."""
    memory = Memory(config(tmp_path), DEFAULT_SPEC)
    held = HeldModel(release().manifest, WEIGHTS)
    memory.state.keep_model(held)
    memory.save_facts(k.Facts(active=model_id(held)))
    memory.save_calibration(held.digest, Calibration(0.7, 1.0, 100, 60.0, 1.0))
    memory.close()
    return config(tmp_path), model_id(held)


def reopened(settings):
    memory = Memory(settings, DEFAULT_SPEC)
    try:
        return memory.restore(), dict(memory.models), memory.samples.load(), memory.counters()
    finally:
        memory.close()


def test_a_sample_buffer_corrupted_on_disk_starts_empty_and_the_active_model_stays(lived):
    settings, active = lived
    path = settings.store.dir / "samples.db"
    path.write_bytes(b"SQLite format 3\x00" + bytes(range(256)) * 40)
    restored, models, rows, counters = reopened(settings)
    assert restored.facts.active == active
    assert restored.calibration.threshold == 0.7
    assert active.digest in models
    assert not any(len(part) for part in rows.values())
    assert counters["store-damaged-moved-aside"] == 1
    assert list(settings.store.dir.glob("samples.db.damaged-*")), "the damaged file is kept for whoever wants to look"


def test_rows_damaged_one_by_one_are_left_out_and_the_active_model_stays(lived):
    settings, active = lived
    with closing(sqlite3.connect(settings.store.dir / "samples.db")) as base, base:
        good = np.ones(DEFAULT_SPEC.inputs, "<f4").tobytes()
        base.executemany(
            "INSERT INTO samples (flow_id, split, y, source, start_us, x) VALUES (?, 0, 0, 1, ?, ?)",
            [(1, 10, good), (2, 20, good[:-1]), (3, 30, b"")],
        )
    restored, _, rows, _ = reopened(settings)
    assert restored.facts.active == active
    assert [int(i) for part in rows.values() for i in part.flow_id] == [1]


def test_a_model_corrupted_on_disk_is_not_used_and_the_others_stay(lived):
    """The model in use is the one that cannot stay here; the factory model, which is silent, takes its place."""
    settings, active = lived
    with closing(sqlite3.connect(settings.store.dir / "state.db")) as base, base:
        base.execute("UPDATE models SET weights = ?", (b"\x00\x00\x80\x3f" + weights_to_bytes(WEIGHTS)[4:],))
    restored, models, _, _ = reopened(settings)
    assert restored.facts.active is None
    assert active.digest not in models
    assert [m.manifest.role for m in models.values()] == ["factory"]


def test_an_engine_refuses_a_second_thread():
    """A shared interpreter would give wrong results without an error."""
    import threading

    engine = select.load_engine(DEFAULT_SPEC).engine
    if engine.name != "litert":
        pytest.skip("no LiteRT here")
    x, said = np.zeros((1, DEFAULT_SPEC.inputs), np.float32), []
    engine.infer(WEIGHTS, x)

    def other():
        for call in (
            lambda: engine.infer(WEIGHTS, x),
            lambda: engine.evaluate(WEIGHTS, x, np.zeros(1, np.int32), *np.ones((2, 1), np.float32)),
        ):
            try:
                call()
            except RuntimeError as error:
                said.append(str(error))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert len(said) == 2
    assert "one thread" in said[0]
    engine.infer(WEIGHTS, x)
