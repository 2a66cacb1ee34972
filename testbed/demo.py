"""The demo run: a broker, a gateway and many agents as real processes, fed by labelled captures."""

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from contract.exit_codes import ExitCode
from testbed import demo_chaos
from testbed.broker import start_broker
from testbed.captures.loader import LabelledCapture, load_captures
from testbed.demo_collect import run_results
from testbed.demo_results import RunResults, write_results
from testbed.demo_script import Script
from testbed.demo_setup import (
    DemoSettings,
    RunDir,
    prepare_run_dir,
)
from testbed.demo_state import Progress, RunState
from testbed.errors import HarnessError
from testbed.feeder import Feeder, Part
from testbed.processes import supervised
from testbed.transport import HarnessClient


def make_captures(settings: DemoSettings, where: RunDir, progress: Progress) -> list[LabelledCapture]:
    """Return the captures of the run; without a folder, generate them first.

    Raises
    ------
    HarnessError
        If a capture or its labels cannot be used.
    """
    folder = settings.captures
    if folder is None:
        from testbed.traffic.writer import generate  # noqa: PLC0415  # needed only without a folder

        folder = where.captures
        progress.phase(f"generating traffic (seed {settings.seed})")
        for old in [*folder.glob("*.pcap"), *folder.glob("*.labels.json")]:
            old.unlink()
        try:
            generate(
                folder,
                settings.seed,
                learn_s=settings.learn_s,
                exam_s=settings.exam_s,
                devices=settings.devices,
            )
        except ValueError as error:
            raise HarnessError(str(error), code=ExitCode.USAGE) from None
    captures = load_captures(folder)
    return captures[: settings.devices] if settings.devices else captures


def run_demo(
    settings: DemoSettings, progress: Progress, *, on_results: Callable[[RunResults], None] | None = None
) -> RunResults:
    """Run a demo from start to end and write its results.

    Parameters
    ----------
    settings
        What to run.
    progress
        Is told how it goes.
    on_results
        Receives the results while everything is still up, before ``keep_running`` waits.

    Returns
    -------
    RunResults
        Also written to ``results.json`` in the output folder.

    Raises
    ------
    HarnessError
        If something essential does not start, dies, or is not ready in time.
    KeyboardInterrupt
        On Ctrl-C, after everything was stopped.
    """
    where = prepare_run_dir(settings.out)
    began_s, started = time.monotonic(), datetime.now(UTC)
    captures = make_captures(settings, where, progress)
    strikes = demo_chaos.plan(settings.chaos, tuple(c.device_id for c in captures))
    generated_s = time.monotonic() - began_s
    with supervised() as supervisor:
        progress.phase("starting the broker")
        broker = start_broker(settings.broker, run_dir=where.run, supervisor=supervisor, port=settings.port)
        run_id = f"demo-{started:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        state = RunState(run_id, settings, where, captures, broker, began_s=began_s)
        state.phases_s["captures"] = round(generated_s, 1)
        with HarnessClient(broker.host, broker.port, client_id="kinwatch-harness") as client, _fed(state):
            run = Script(state, supervisor, client, progress, strikes)
            run.play()
            results = run_results(state, started)
            write_results(results, where.results)
            if on_results is not None:
                on_results(results)
            if settings.keep_running:
                run.linger()
    return results


@contextmanager
def _fed(state: RunState) -> Iterator[None]:
    """Run one feeder for each device."""
    try:
        for capture in state.captures:
            parts = tuple(Part(split, capture.packets(split), gate) for split, gate in state.gates.items())
            feeder = Feeder(
                state.where.fifo(capture.device_id),
                link_type=capture.summary.linktype,
                parts=parts,
                speed=state.settings.speed,
            )
            state.feeders[capture.device_id] = feeder
            feeder.start()
        yield
    finally:
        for feeder in state.feeders.values():
            feeder.stop()
