"""Messages that wait: durable, bounded, settled by key."""

from device_agent.store.outbox import Outbox, Waiting


def alert(number, size=10):
    return Waiting(f"alert-{number}", "alert", "t/alert", bytes([number % 256]) * size)


def update(number):
    return Waiting(f"round-{number:06d}-cam-1-fallback", "update", "t/update", b"delta")


def test_updates_go_before_reports_before_alerts_each_oldest_first(tmp_path):
    outbox = Outbox(tmp_path / "o.db")
    outbox.put(alert(1), alert(2))
    outbox.put(Waiting("report-1", "report", "t", b"r"))
    outbox.put(update(2), update(1))
    assert [m.key for m in outbox.pending()] == [update(2).key, update(1).key, "report-1", "alert-1", "alert-2"]
    assert [m.key for m in outbox.pending(without=frozenset({update(2).key}), limit=2)] == [update(1).key, "report-1"]


def test_what_waits_survives_without_being_closed(tmp_path):
    Outbox(tmp_path / "o.db").put(update(1), alert(1))
    again = Outbox(tmp_path / "o.db")
    assert again.pending() == [update(1), alert(1)]
    assert again.keys("update") == (update(1).key,)


def test_a_settled_message_is_gone_for_good(tmp_path):
    outbox = Outbox(tmp_path / "o.db")
    outbox.put(update(1), alert(1))
    assert outbox.settle(update(1).key, "unknown", update(1).key) == 1
    assert len(outbox) == 1
    assert [m.key for m in Outbox(tmp_path / "o.db").pending()] == ["alert-1"]


def test_the_same_key_is_kept_once_with_its_first_bytes(tmp_path):
    outbox = Outbox(tmp_path / "o.db")
    outbox.put(update(1))
    outbox.put(Waiting(update(1).key, "update", "t/update", b"other"), update(1))
    assert outbox.pending() == [update(1)]
    assert len(Outbox(tmp_path / "o.db")) == 1


def test_beyond_the_bound_the_oldest_alerts_go_and_are_counted(tmp_path):
    outbox = Outbox(tmp_path / "o.db", max_messages=4)
    outbox.put(update(1))
    outbox.put(*[alert(n) for n in range(6)])
    assert outbox.dropped == {"alert": 3}
    assert [m.key for m in outbox.pending()] == [update(1).key, "alert-3", "alert-4", "alert-5"]
    assert len(Outbox(tmp_path / "o.db")) == 4


def test_bytes_are_bounded_and_an_update_outlives_all_alerts(tmp_path):
    outbox = Outbox(tmp_path / "o.db", max_bytes=100)
    outbox.put(alert(1, 60), update(1))
    outbox.put(Waiting("round-000002-cam-1-fallback", "update", "t", b"x" * 94))
    assert outbox.dropped == {"alert": 1}
    assert outbox.keys("update") == (update(1).key, "round-000002-cam-1-fallback")


def test_what_the_disk_refuses_still_goes_out_in_this_process(tmp_path):
    outbox = Outbox(tmp_path / "o.db")
    outbox.database.read("PRAGMA query_only=ON")
    outbox.put(update(1))
    assert outbox.pending() == [update(1)]
    assert outbox.database.failures == {"store-read-only": 1}
    assert outbox.settle(update(1).key) == 1
    assert outbox.pending() == []


def test_pieces_of_a_payload(tmp_path):
    outbox = Outbox(tmp_path / "o.db")
    whole = update(1).payload
    outbox.put(update(1), update(2))
    assert outbox.part(update(1).key, 1, 3) == whole[1:4]
    assert outbox.part(update(2).key, 0, 10_000) == update(2).payload
    assert outbox.part(update(1).key, len(whole), 5) == b""
    outbox.settle(update(1).key)
    assert outbox.part(update(1).key, 0, 3) == b""
