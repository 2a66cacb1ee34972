"""A gateway machine with its memory and a clock, for tests that talk to the machine as a whole."""

import numpy as np

from contract.features import N_FEATURES
from contract.model import DEFAULT_SPEC
from gateway.events import Head, PeerSaid, RoundStored, SearchFinished, Ticked
from gateway.families import FamilyBook, FamilyRules
from gateway.grouping import Grouping, Scaling, make_group
from gateway.machine import GatewayMachine, Memory
from gateway.registry import Registry
from gateway.restore import round_rules
from gateway.rounds import OpenRound, RoundMachine
from tests.unit.gateway.builders import birth, config, signature, status, telemetry

F0, F1, F2, E1, F3 = ("0" * 63 + c for c in "12345")
DIM = 2 * N_FEATURES
OFFLINE_AFTER_S = 10_000.0


class Bench:
    """A machine, its memory and a clock."""

    def __init__(self, *, rounds=RoundMachine, families=None, **settings):
        sections = {"rounds": {"min_devices": 3, "warmup_rounds": 1, "interval_s": 0, **settings}}
        self.config = config(**sections, families=families or {})
        self.memory = Memory(
            registry=Registry(spec_id=DEFAULT_SPEC.spec_id, offline_after_s=OFFLINE_AFTER_S),
            rounds=rounds(round_rules(self.config)),
            book=FamilyBook(FamilyRules(self.config.rounds.warmup_rounds, 10)),
            heads={"fallback": Head(F0, 20.0)},
            published={F0},
        )
        self.machine = GatewayMachine(self.config, DEFAULT_SPEC, self.memory)
        self.now = 0.0

    def say(self, message, device_id=None):
        return self.machine.handle(PeerSaid(device_id or message.device_id, message), self.now)

    def join(self, *devices, rows=500, sign=True):
        effects = []
        for device in devices:
            for message in (birth(device), status(device), telemetry(device, rows=rows)):
                effects += self.say(message)
            if sign:
                effects += self.say(signature(device))
        return effects

    def tick(self):
        return self.machine.handle(Ticked(), self.now)

    def open(self):
        (opened,) = [e for e in self.tick() if isinstance(e, OpenRound)]
        return opened

    def finish(self, opened, *, heads):
        """Expire a round and settle it with the given heads."""
        self.now += self.config.rounds.deadline_s
        self.tick()
        return self.machine.handle(RoundStored(opened.number, (), heads), self.now)


def families_of(*groups, fits_none=()):
    scaling = Scaling(np.zeros(DIM), np.ones(DIM))
    made = tuple(make_group(g, np.zeros((len(g), DIM))) for g in groups)
    return Grouping(True, made, tuple(fits_none), "found", {"gate": 0.5, "separation": 0.5}, scaling)


def kinds(effects):
    return [type(effect).__name__ for effect in effects]


def with_families():
    """Six devices, two families of three, after one warm-up round."""
    bench = Bench()
    bench.join("a", "b", "c", "d", "e", "f")
    bench.finish(bench.open(), heads={"fallback": Head(F1, 20.0)})
    bench.machine.handle(SearchFinished(families_of(("a", "b", "c"), ("d", "e", "f")), 1), bench.now)
    return bench
