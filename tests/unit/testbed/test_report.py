"""The page needs nothing else, shows what the results say, and survives thin results and hostile text."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from contract.taxonomy import CLASS_INDEX, N_CLASSES
from testbed.demo_results import AlertPoint, DeviceResult, EpisodeResult, ModelFigures, RoundResult, RunResults
from testbed.demo_results import TrainingLine as Line
from testbed.report import render_page, write_report
from testbed.report.figures import principal_components


def figures(role, *, seed, attacks=("scan", "bruteforce", "c2_beacon")):
    rng = np.random.default_rng(seed)
    counts = np.zeros((N_CLASSES, N_CLASSES), dtype=int)
    counts[0, 0] = 400
    recall = {}
    for name in attacks:
        rows = int(rng.integers(8, 60))
        counts[CLASS_INDEX[name], CLASS_INDEX[name]] = rows
        recall[name] = (int(rows * rng.uniform(0.3, 1.0)), rows)
    f1 = float(rng.uniform(0.6, 1.0))
    return ModelFigures(
        role=role,
        digest="ab" * 32,
        macro_f1=f1,
        f1={"benign": f1},
        recall=recall,
        false_alarms=3,
        false_alarms_per_hour=18.0,
        confusion=tuple(map(tuple, counts.tolist())),
    )


def device(name, family, *, seed, has_expert=True):
    models = {"fallback": figures("fallback", seed=seed)}
    if has_expert:
        models["expert"] = figures("expert", seed=seed + 50)
    models["in-use"] = models.get("expert", models["fallback"])
    rng = np.random.default_rng(seed)
    return DeviceResult(
        device_id=name,
        profile="camera",
        family_id=family,
        family_reason=f"in {family}" if family else "fits no family",
        in_use=f"expert {family}" if has_expert else "fallback",
        choice="expert-default" if has_expert else "no-expert",
        exam_rows=500,
        exam_s=600.0,
        models=models,
        packets=30_000,
        flows=900,
        alerts=12,
        rss_peak_bytes=88_000_000,
        trainer_rss_peak_bytes=70_000_000,
        capture_s=1800.0,
        exam_from_s=1200.0,
        episodes=tuple(
            EpisodeResult(label=label, split=split, start_s=at, end_s=at + 30, alerts=3, delay_s=2.5)
            for label, split, at in (("scan", "learn", 200.0), ("c2_beacon", "exam", 1400.0))
        ),
        alert_points=tuple(
            AlertPoint(at_s=float(at), attack_class="scan", true=bool(at < 1500)) for at in rng.uniform(100, 1790, 12)
        ),
        signature=tuple((rng.normal(size=41) * 0.1 + (1.0 if family == "family-1" else -1.0)).tolist()),
    )


def sample(**changes):
    names = [f"cam-{i}" for i in range(1, 5)] + [f"temp-{i}" for i in range(1, 5)]
    devices = [device(n, "family-1" if n[0] == "c" else "family-2", seed=i) for i, n in enumerate(names)]
    devices += [device(n, None, seed=60 + i, has_expert=False) for i, n in enumerate(("plc-1", "printer-1"))]
    rounds = [
        RoundResult(
            number=n,
            seconds=2.0,
            invited=10,
            training=tuple(
                Line(model=m, updates=4, rows=4000, loss_before=1.4 / n, loss_after=1.2 / n)
                for m in (("fallback", "expert family-1", "expert family-2") if n > 4 else ("fallback",))
            ),
        )
        for n in range(1, 13)
    ]
    base = {
        "run_id": "demo-20260101-abcd",
        "started": "2026-01-01T00:00:00+00:00",
        "wall_s": 112.0,
        "phases_s": {"captures": 9.0, "start": 6.0, "learn": 14.0, "rounds": 60.0, "exam": 8.0, "evaluate": 3.0},
        "command": "kinwatch-testbed demo",
        "settings": {"seed": "7"},
        "source": "synthetic traffic of 10 devices",
        "families": {"family-1": tuple(names[:4]), "family-2": tuple(names[4:])},
        "family_reason": "two families",
        "rounds_completed": 12,
        "rounds_wanted": 12,
        "rounds": tuple(rounds),
        "devices": tuple(devices),
        "environment": {"python": "3.11.7", "broker": "Mosquitto 2.0.11"},
        "notes": (),
    }
    return RunResults(**(base | changes))


class Page(HTMLParser):
    """Collects what a browser would fetch or run, and checks that tags are closed."""

    VOID = frozenset({"meta", "img", "source", "br"})

    def __init__(self):
        super().__init__()
        self.open, self.urls, self.tags, self.text = [], [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.urls += [v for k, v in attrs if k in {"src", "srcset", "href"}]
        assert not [k for k, _ in attrs if k.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def parsed(results):
    page = Page()
    page.feed(render_page(results))
    assert page.open == []
    return page


def test_the_page_requests_nothing_and_runs_nothing():
    html = render_page(sample())
    page = parsed(sample())
    assert len(page.urls) == 10  # five figures, light and dark
    assert all(url.startswith("data:image/svg+xml;base64,") for url in page.urls)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"@import|url\(", html)
    assert "prefers-color-scheme: dark" in html


def test_figures_are_drawings_that_request_nothing():
    for url in parsed(sample()).urls:
        drawing = base64.b64decode(url.split(",", 1)[1]).decode()
        assert "<svg" in drawing
        assert drawing.count("<path") > 10
        assert not re.search(r'(?:href|src)="https?:', drawing)


def test_the_table_holds_the_figures_of_the_results():
    results = sample()
    text = parsed(results).text
    for one in results.devices:
        assert one.device_id in text
        assert f"{one.f1_of('fallback'):.3f}" in text
    hits = sum(h for h, _ in results.recall_by_attack().values())
    rows = sum(r for _, r in results.recall_by_attack().values())
    assert f"{hits:,} of {rows:,} flows" in text
    assert "held-out exam flows" in text


def test_text_from_outside_is_escaped():
    hostile = "<script>alert(1)</script>"
    html = render_page(sample(notes=(hostile,), family_reason=hostile, families={}))
    assert hostile not in html
    assert "&lt;script&gt;" in html


@pytest.mark.parametrize(
    "changes",
    [
        {"devices": (), "rounds": (), "families": {}},
        {"devices": (DeviceResult(device_id="a", profile="x"),), "rounds": (), "families": {}},
        {"devices": (device("a", None, seed=1, has_expert=False),), "families": {}, "rounds": ()},
    ],
    ids=["no devices", "a device without report", "one device without family"],
)
def test_thin_results_still_make_a_page(changes):
    assert "Kinwatch" in parsed(sample(**changes)).text


def test_equal_results_make_equal_pages(tmp_path):
    one, two = (write_report(sample(), tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert one == two


def test_components_are_ordered_and_keep_distances():
    rng = np.random.default_rng(3)
    rows = np.outer(rng.normal(size=8), rng.normal(size=12)) * 5 + rng.normal(size=(8, 12)) * 0.01
    points, shares = principal_components(rows)
    assert shares[0] > 0.99 > shares[1]
    wanted = np.linalg.norm(rows[0] - rows[1])
    assert np.linalg.norm(points[0] - points[1]) == pytest.approx(wanted, rel=0.01)


def test_equal_signatures_do_not_divide_by_zero():
    points, shares = principal_components([[1.0, 2.0]] * 3)
    assert np.abs(points).max() < 1e-9
    assert shares == (0.0, 0.0)
