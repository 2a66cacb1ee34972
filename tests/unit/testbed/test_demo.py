"""The parts of a demo run: what the fleet says, kills, configuration, episodes, and the script's bounds."""

import json
import time
import tomllib

import numpy as np
import pytest

from contract import topics
from contract.codec import encode
from contract.exit_codes import ExitCode
from contract.features import N_FEATURES, SCHEMA_ID
from contract.messages import (
    ActiveModel,
    Assignment,
    Birth,
    Coverage,
    EvaluationReport,
    EveAlert,
    EveFlow,
    EveKinwatch,
    EveSignature,
    GatewayState,
    MarkRule,
    MarkSet,
    ModelScore,
    ModelUpdate,
    Receipt,
    Release,
    RoundTask,
    Signature,
    Status,
    Telemetry,
    TrainTarget,
)
from contract.model import DEFAULT_SPEC, ModelId, ReleaseManifest
from contract.taxonomy import CLASS_INDEX, N_CLASSES
from testbed import demo_chaos, demo_collect, demo_setup
from testbed.broker import RunningBroker
from testbed.captures.loader import load_captures
from testbed.captures.sidecar import LabelSidecar, write_sidecar
from testbed.demo_results import figures_of_report, read_results, write_results
from testbed.demo_state import RunState
from testbed.demo_view import FleetView
from testbed.errors import HarnessError
from testbed.feeder import pcap_header, pcap_record
from tests.unit.testbed.test_feeder import packets

ORIGIN_US = 1_767_225_600_000_000
D1, D2 = "1" * 64, "2" * 64


def model(role="fallback", digest=D1, family=None):
    return ModelId(role=role, family_id=family, digest=digest)


def birth(device, session):
    return Birth(
        device_id=device,
        session=session,
        contract_version="1.0",
        agent_version="0",
        board="b",
        system="s",
        python="3",
        engine="numpy",
        schema_id=SCHEMA_ID,
        spec_id=DEFAULT_SPEC.spec_id,
    )


def telemetry(device="cam-1", session="a", **counts):
    return Telemetry(device_id=device, session=session, uptime_s=1.0, capture_state="running", **counts)


def release(number, role="fallback", digest=D1, family=None):
    manifest = ReleaseManifest(
        weights_digest=digest,
        spec_id=DEFAULT_SPEC.spec_id,
        n_parameters=4,
        role=role,
        family_id=family,
        round_number=number,
        parent=None,
    )
    return Release(manifest=manifest, key_id="0" * 16, signature=b"s" * 64, weights=b"w" * 16)


def update(device, number=3, loss_after=0.5, role="fallback"):
    return ModelUpdate(
        update_id=f"round-{number:06d}-{device}-{role}",
        round_id=f"round-{number:06d}",
        device_id=device,
        role=role,
        spec_id=DEFAULT_SPEC.spec_id,
        base=D1,
        delta=b"d" * 8,
        delta_digest=D2,
        rows=100,
        loss_before=1.0,
        loss_after=loss_after,
        train_seconds=0.1,
    )


def assignment(device="cam-1", version=1, expert=None, reason="why"):
    family = expert.family_id if expert else None
    return Assignment(
        device_id=device, version=version, family_id=family, reason=reason, fallback=model(), expert=expert
    )


def active(device="cam-1", version=1, used=None):
    return ActiveModel(
        device_id=device, assignment_version=version, active=used or model(), reason="expert-default", threshold=0.5
    )


def task(device, number):
    return RoundTask(
        round_id=f"round-{number:06d}",
        round_number=number,
        device_id=device,
        spec_id=DEFAULT_SPEC.spec_id,
        targets=(TrainTarget(role="fallback", base=D1),),
        local_epochs=1,
        learning_rate=0.01,
        proximal_mu=0.0,
        recon_weight=1.0,
        seed=1,
        deadline_s=10.0,
    )


class Fleet:
    """Sends messages into a view as a broker would."""

    def __init__(self):
        self.view = FleetView()

    def say(self, topic, message, now_s=0.0, **parts):
        if not parts and "{device}" in topic.pattern:
            parts = {"device": message.device_id}
        self.view.hear(topic.of(**parts), encode(message), now_s)
        return self.view


@pytest.fixture
def fleet():
    return Fleet()


# -- the view ----------------------------------------------------------------------------------------------------


def test_counters_add_up_over_restarts_of_an_agent(fleet):
    for session, counts in (("a", (5, 50)), ("b", (2, 7))):
        fleet.say(topics.BIRTH, birth("cam-1", session))
        for packets_seen in counts:
            fleet.say(topics.TELEMETRY, telemetry(session=session, packets=packets_seen))
    one = fleet.view.device("cam-1")
    assert one.total("packets") == 57
    assert one.sessions == ["a", "b"]


def test_a_restarted_agent_has_no_ended_capture_until_it_says_so(fleet):
    fleet.say(topics.BIRTH, birth("cam-1", "a"))
    fleet.say(topics.TELEMETRY, telemetry().model_copy(update={"capture_state": "ended"}))
    assert fleet.view.device("cam-1").capture_state == "ended"
    fleet.say(topics.BIRTH, birth("cam-1", "b"))
    assert fleet.view.device("cam-1").capture_state == "starting"


def test_a_lost_device_is_not_online(fleet):
    status = Status(device_id="cam-1", session="a", state="ready")
    fleet.say(topics.STATUS, status)
    assert fleet.view.device("cam-1").online
    fleet.say(topics.STATUS, status.model_copy(update={"state": "lost"}))
    assert not fleet.view.device("cam-1").online


def test_a_device_follows_its_assignment_only_with_a_model_of_the_newest_one(fleet):
    expert = model("expert", D2, "family-1")
    fleet.say(topics.ASSIGNMENT, assignment(version=2, expert=expert))
    one = fleet.view.device("cam-1")
    assert not one.follows_assignment
    fleet.say(topics.ACTIVE, active(version=1))
    assert not one.follows_assignment
    fleet.say(topics.ACTIVE, active(version=2, used=model(digest="3" * 64)))
    assert not one.follows_assignment
    fleet.say(topics.ACTIVE, active(version=2, used=expert))
    assert one.follows_assignment
    fleet.say(topics.ACTIVE, active(version=1, used=model("local", digest="3" * 64)))
    assert not one.follows_assignment
    fleet.say(topics.ACTIVE, active(version=2, used=model("local", digest="3" * 64)))
    assert one.follows_assignment, "a model of its own is an answer to the assignment too"
    fleet.say(topics.ASSIGNMENT, assignment(version=1))
    assert one.assignment.version == 2, "an older assignment is ignored"


def test_rounds_count_by_their_fallback_releases(fleet):
    for number, role, digest, family in ((0, "factory", D2, None), (3, "fallback", D1, None)):
        fleet.say(topics.RELEASE, release(number, role, digest, family), 7.0, digest=digest)
    fleet.say(topics.RELEASE, release(9, "expert", "4" * 64, "family-1"), digest="4" * 64)
    assert fleet.view.rounds_completed == 3
    assert fleet.view.rounds[3].closed_s == 7.0


def test_a_repeated_update_counts_once_and_losses_are_averaged(fleet):
    fleet.say(topics.TASK, task("cam-1", 3), 10.0)
    for device, loss in (("cam-1", 0.5), ("cam-1", 0.5), ("cam-2", 0.7)):
        fleet.say(topics.UPDATE, update(device, loss_after=loss), 11.0)
    fleet.say(topics.RELEASE, release(3), 12.5, digest=D1)
    (one,) = demo_collect.round_results(fleet.view)
    assert (one.seconds, one.invited) == (2.5, 1)
    assert (one.training[0].updates, one.training[0].rows) == (2, 200)
    assert one.training[0].loss_after == pytest.approx(0.6)


def test_what_cannot_be_read_is_counted_by_reason(fleet):
    fleet.view.hear("kinwatch/1/device/cam-1/telemetry", b"{", 0.0)
    fleet.view.hear("somewhere/else", b"x", 0.0)
    fleet.view.hear(topics.STATUS.of(device="cam-1"), b"", 0.0)
    fleet.say(topics.STATUS, Status(device_id="cam-2", session="a", state="ready"), device="cam-1")
    assert fleet.view.refused == {"malformed": 1, "topic-unknown": 1, "foreign-device": 1}
    assert not fleet.view.device("cam-1").online


def test_refused_updates_are_counted(fleet):
    for accepted in (True, False, False):
        fleet.say(topics.RECEIPT, Receipt(device_id="cam-1", key="k", accepted=accepted, reason="stale"))
    assert fleet.view.receipts_refused == {"stale": 2}


def test_families_come_from_the_newest_assignments(fleet):
    for device, family in (("cam-2", "family-1"), ("cam-1", "family-1"), ("temp-1", "family-2")):
        fleet.say(topics.ASSIGNMENT, assignment(device, expert=model("expert", D2, family)))
    fleet.say(topics.ASSIGNMENT, assignment("plc-1", reason="fits none"))
    fleet.say(topics.ASSIGNMENT, assignment("temp-1", version=2, reason="left"))
    assert fleet.view.families == {"family-1": ["cam-1", "cam-2"]}


def test_the_gateway_is_heard(fleet):
    fleet.say(topics.GATEWAY_STATE, GatewayState(online=True, session="g", contract_version="1.0", gateway_version="0"))
    assert fleet.view.gateway.online


# -- kills -------------------------------------------------------------------------------------------------------


def test_points_of_a_kill_plan_are_read():
    strikes = demo_chaos.plan(("agent@learn", "gateway@round2", "b@exam"), ("a", "b"))
    assert [(s.target, s.phase, s.after_round) for s in strikes] == [
        ("agent a", "learn", 0),
        ("gateway", "rounds", 2),
        ("agent b", "exam", 0),
    ]


@pytest.mark.parametrize("point", ["agent", "agent@noon", "nobody@learn", "gateway@round"])
def test_a_kill_of_nobody_or_at_no_time_is_refused(point):
    with pytest.raises(HarnessError, match=f"--chaos {point}") as caught:
        demo_chaos.plan((point,), ("a", "b"))
    assert caught.value.code == ExitCode.USAGE


def test_a_kill_is_due_in_its_phase_after_its_round_or_once_traffic_flows():
    after_two = demo_chaos.Strike("gateway", "rounds", 2)
    assert [after_two.due(p, n, traffic_flows=True) for p, n in (("learn", 5), ("rounds", 1), ("rounds", 2))] == [
        False,
        False,
        True,
    ]
    in_exam = demo_chaos.Strike("agent a", "exam")
    assert not in_exam.due("exam", 9, traffic_flows=False)
    assert in_exam.due("exam", 9, traffic_flows=True)


# -- configuration and folders -----------------------------------------------------------------------------------

BROKER = RunningBroker("mosquitto", "Mosquitto 2.0.11", "127.0.0.1", 1999)


@pytest.fixture
def capture(tmp_path):
    """A capture of 40 packets a second apart; flows from 30 s on are the exam; bruteforce marked in both parts."""
    path = tmp_path / "captures" / "cam-1.pcap"
    path.parent.mkdir()
    shifted = [p._replace(ts_us=p.ts_us + ORIGIN_US) for p in packets(40)]
    path.write_bytes(pcap_header(1) + b"".join(map(pcap_record, shifted)))
    marks = [
        {"start_s": at, "end_s": at + 5, "label": "bruteforce", "hosts": ["10.20.0.66"], "proto": 6, "ports": [23]}
        for at in (10.0, 32.0)
    ]
    sidecar = {"version": 1, "device_id": "cam-1", "profile": "camera", "exam_from_s": 30.0, "marks": marks}
    write_sidecar(LabelSidecar.model_validate(sidecar), path)
    (one,) = load_captures(path.parent)
    return one


def test_the_gateway_and_the_agent_take_the_generated_configurations(tmp_path, capture):
    from device_agent.config import load_config
    from gateway.config import load

    where = demo_setup.prepare_run_dir(tmp_path / "out")
    settings = demo_setup.DemoSettings(out=tmp_path / "out", rounds=9)
    demo_setup.write_toml(where.config("gateway"), demo_setup.gateway_config(where, settings, BROKER, devices=10))
    gateway = load(where.config("gateway"))
    assert (gateway.broker.port, gateway.rounds.max_rounds, gateway.rounds.min_devices) == (1999, 9, 8)
    keys = [where.run / "a.pub", where.run / "b.pub"]
    demo_setup.write_toml(where.config("cam-1"), demo_setup.agent_config(where, capture, BROKER, keys))
    agent = load_config(where.config("cam-1"))
    assert (agent.device.id, agent.capture.source) == ("cam-1", str(where.fifo("cam-1")))
    assert agent.labels.accept_marks
    assert agent.labels.baseline_s == 0.0, "every label of a demo comes from a mark"
    assert agent.trust.keys == tuple(keys)


def test_toml_of_every_kind_of_value_reads_back(tmp_path):
    document = {"a": 1, "t": {"s": 'quote " and \\', "f": 0.5, "b": True, "l": ["x", "ü"]}}
    demo_setup.write_toml(tmp_path / "x.toml", document)
    assert tomllib.loads((tmp_path / "x.toml").read_text()) == document


def test_an_old_run_is_removed_and_strange_files_are_not(tmp_path):
    where = demo_setup.prepare_run_dir(tmp_path)
    (where.run / "state").mkdir()
    (where.run / "state" / "old.sqlite3").write_text("x")
    demo_setup.prepare_run_dir(tmp_path)
    assert not (where.run / "state").exists()
    (where.run / demo_setup._MARKER).unlink()
    (where.run / "thesis.tex").write_text("x")
    with pytest.raises(HarnessError, match="holds files that no run made"):
        demo_setup.prepare_run_dir(tmp_path)
    assert (where.run / "thesis.tex").exists()


def test_a_folder_in_use_by_another_run_is_refused(tmp_path):
    where = demo_setup.prepare_run_dir(tmp_path)
    (where.run / demo_setup._MARKER).write_text("1\n")
    with pytest.raises(HarnessError, match="process id 1 uses"):
        demo_setup.prepare_run_dir(tmp_path)


def test_an_output_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(HarnessError, match="give another --out") as caught:
        demo_setup.prepare_run_dir(tmp_path / "file" / "out")
    assert caught.value.code == ExitCode.STORE


def test_the_environment_record_names_versions_machine_and_inputs(capture):
    record = demo_setup.environment(BROKER, [capture])
    assert record["broker"] == "Mosquitto 2.0.11"
    assert record["python"].startswith("3.")
    assert len(record["captures sha256"]) == 16
    assert record["numpy"] == np.__version__


# -- results -----------------------------------------------------------------------------------------------------


def alert(at_s, *, source="10.20.0.66", target="10.20.0.10", ports=(40_000, 23), proto="TCP", start_s=None):
    def stamp(seconds):
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ORIGIN_US / 1e6 + seconds)) + ".000000+0000"

    return EveAlert(
        timestamp=stamp(at_s),
        flow_id=1,
        src_ip=source,
        src_port=ports[0],
        dest_ip=target,
        dest_port=ports[1],
        proto=proto,
        alert=EveSignature(signature_id=9_000_002, signature="s", category="c", severity=1),
        flow=EveFlow(
            pkts_toserver=1,
            pkts_toclient=1,
            bytes_toserver=1,
            bytes_toclient=1,
            start=stamp(at_s if start_s is None else start_s),
        ),
        kinwatch=EveKinwatch(
            device_id="cam-1", score=0.9, threshold=0.5, attack_class="bruteforce", model=D1, role="fallback"
        ),
    )


RULE = MarkRule(
    label="bruteforce",
    start_us=ORIGIN_US + 10_000_000,
    end_us=ORIGIN_US + 20_000_000,
    hosts=("10.20.0.66",),
    proto=6,
    ports=(23,),
)


@pytest.mark.parametrize(
    ("one", "wanted"),
    [
        (alert(12), True),
        (alert(25, start_s=20), True),
        (alert(21), False),
        (alert(9), False),
        (alert(12, source="10.20.0.10", target="10.20.0.66", ports=(23, 40_000)), True),
        (alert(12, source="10.20.0.9"), False),
        (alert(12, proto="UDP"), False),
        (alert(12, ports=(40_000, 22)), False),
    ],
    ids=["inside", "started inside", "late", "early", "other direction", "other host", "other protocol", "other port"],
)
def test_an_alert_belongs_to_an_episode_by_window_host_protocol_and_port(one, wanted):
    assert demo_collect.fits(RULE, one) is wanted


def test_peers_bind_the_other_end():
    rule = RULE.model_copy(update={"peers": ("10.20.0.10",)})
    assert demo_collect.fits(rule, alert(12))
    assert not demo_collect.fits(rule, alert(12, target="10.20.0.11"))


def test_episodes_tell_the_delay_of_their_first_alert():
    exam = RULE.model_copy(update={"start_us": ORIGIN_US + 40_000_000, "end_us": ORIGIN_US + 50_000_000})
    coverage = tuple(
        Coverage(start_us=ORIGIN_US + a, end_us=ORIGIN_US + b, default_label="benign", split=split)
        for a, b, split in ((0, 30_000_000, "learn"), (30_000_001, 60_000_000, "exam"))
    )
    marks = MarkSet(run_id="r", device_id="cam-1", rules=(RULE, exam), coverage=coverage)
    first, second = demo_collect.episodes(marks, [alert(14), alert(13), alert(25)])
    assert (first.split, first.alerts, first.delay_s) == ("learn", 2, 3.0)
    assert (second.split, second.alerts, second.delay_s) == ("exam", 0, None)
    points = demo_collect.alert_points(marks, [alert(14), alert(25)])
    assert [(p.at_s, p.true) for p in points] == [(14.0, True), (25.0, False)]


def test_the_alert_file_is_read_with_its_older_part_and_bad_lines_are_counted(tmp_path):
    path = tmp_path / "cam-1.eve.json"
    path.with_name("cam-1.eve.json.1").write_bytes(encode(alert(1)) + b"\n")
    path.write_bytes(encode(alert(2)) + b"\nhalf a li")
    alerts, bad = demo_collect.read_alerts(path)
    assert [a.timestamp[17:19] for a in alerts] == ["01", "02"]
    assert bad == 1
    assert demo_collect.read_alerts(tmp_path / "none") == ([], 0)


def score(used, *, benign=90, wrong=10, caught=8):
    counts = np.zeros((N_CLASSES, N_CLASSES), dtype=int)
    counts[0, 0], counts[0, 1] = benign, wrong
    counts[CLASS_INDEX["scan"], CLASS_INDEX["scan"]] = 10
    alerted = [0] * N_CLASSES
    alerted[0], alerted[CLASS_INDEX["scan"]] = 2, caught
    return ModelScore(model=used, confusion=tuple(map(tuple, counts.tolist())), alerted=tuple(alerted))


def report(*scores, used):
    return EvaluationReport(
        device_id="cam-1", run_id="r", scores=scores, active=used, exam_rows=110, exam_benign_s=600.0
    )


def test_figures_of_a_report_are_by_role_and_for_the_model_in_use():
    expert = model("expert", D2, "family-1")
    figures, note = figures_of_report(report(score(model(), benign=50, wrong=50), score(expert), used=expert))
    assert set(figures) == {"fallback", "expert", "in-use"}
    assert figures["in-use"] == figures["expert"]
    assert figures["expert"].macro_f1 == pytest.approx((180 / 190 + 20 / 30) / 2)
    assert figures["expert"].recall == {"scan": (8, 10)}
    assert figures["expert"].false_alarms_per_hour == pytest.approx(12.0)
    assert note == ""


def test_a_report_that_contradicts_itself_becomes_a_note():
    figures, note = figures_of_report(report(score(model(), caught=11), used=model()))
    assert figures == {}
    assert "more alerted rows than rows" in note


def heard_state(tmp_path, capture):
    where = demo_setup.prepare_run_dir(tmp_path / "out")
    settings = demo_setup.DemoSettings(out=tmp_path / "out")
    return RunState("r", settings, where, [capture], BROKER)


def test_results_of_a_run_read_back_equal(tmp_path, capture):
    from datetime import UTC, datetime

    state = heard_state(tmp_path, capture)
    state.where.alerts("cam-1").write_bytes(encode(alert(11, ports=(1, 23))) + b"\n")
    state.memory["cam-1"] = (90_000_000, 50_000_000)
    expert = model("expert", D2, "family-1")
    mean = np.linspace(0, 1, N_FEATURES).astype("<f2").tobytes()
    voice = Fleet()
    voice.view = state.fleet
    voice.say(topics.ASSIGNMENT, assignment(expert=expert, reason="two families"))
    voice.say(topics.ACTIVE, active(used=expert))
    voice.say(topics.TELEMETRY, telemetry(packets=40, flows=7, rss_bytes=80_000_000))
    voice.say(
        topics.SIGNATURE,
        Signature(device_id="cam-1", schema_id=SCHEMA_ID, sequence=1, flows=9, mean=mean, log_std=bytes(N_FEATURES)),
    )
    voice.say(topics.REPORT, report(score(model()), score(expert), used=expert))
    results = demo_collect.run_results(state, datetime.now(UTC))
    (one,) = results.devices
    assert (one.packets, one.flows, one.alerts, one.rss_peak_bytes) == (40, 7, 1, 90_000_000)
    assert (one.in_use, one.family_id) == ("expert family-1", "family-1")
    assert [e.alerts for e in one.episodes] == [1, 0]
    assert len(one.signature) == N_FEATURES
    assert results.mean_f1("expert") == pytest.approx(one.f1_of("expert"))
    assert results.false_alarms() == (2, pytest.approx(1 / 6))
    path = tmp_path / "results.json"
    write_results(results, path)
    assert read_results(path) == results


def test_a_silent_device_is_in_the_results_with_a_note(tmp_path, capture):
    from datetime import UTC, datetime

    results = demo_collect.run_results(heard_state(tmp_path, capture), datetime.now(UTC))
    (one,) = results.devices
    assert one.models == {}
    assert one.note == "no evaluation report came"
    assert results.mean_f1("in-use") is None


@pytest.mark.parametrize("text", ["{", json.dumps({"version": 1})])
def test_a_file_that_holds_no_results_is_one_line(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(HarnessError, match="no results of a run"):
        read_results(path)
