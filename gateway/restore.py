"""From the store to the machine: what a new process starts with."""

from dataclasses import dataclass

import numpy as np

from contract.initial import initial_theta
from contract.messages import RoundTask
from contract.model import ModelSpec, weights_from_bytes
from gateway.aggregation import ServerState
from gateway.config import GatewayConfig
from gateway.errors import ModelSpecError, StoreError
from gateway.events import Head
from gateway.families import FamilyBook, FamilyRules
from gateway.machine import Memory
from gateway.registry import Registry
from gateway.releases import SignsBytes, make_epoch, make_release
from gateway.rounds import FALLBACK, RoundMachine, RoundRules
from gateway.store import Store


@dataclass(frozen=True, slots=True)
class Restored:
    """What the last process left.

    Attributes
    ----------
    memory
        For the machine.
    tasks, update_ids
        Of the round that was open, empty without one.
    """

    memory: Memory
    tasks: tuple[RoundTask, ...]
    update_ids: frozenset[str]


def restore(store: Store, config: GatewayConfig, spec: ModelSpec, signer: SignsBytes, *, now_s: float) -> Restored:
    """Read the state of the last process; make the first fallback if there is none.

    Raises
    ------
    StoreError
        If the store cannot be read, or misses a model.
    ModelSpecError
        If the store's models have another spec.
    """
    heads = store.models.heads()
    if FALLBACK not in heads:
        _make_first_fallback(store, config, spec, signer, now_s=now_s)
        heads = store.models.heads()
    open_number = store.rounds.open_number()
    last = store.rounds.last_number()
    settled = last if open_number is None else last - 1
    rounds = RoundMachine(round_rules(config), last_number=last, settled_ids=store.rounds.update_ids(settled))
    memory = Memory(
        registry=Registry(
            spec_id=spec.spec_id,
            offline_after_s=config.devices.offline_after_s,
            devices=(stored.device for stored in store.devices.all()),
            signatures=store.signatures.all(),
        ),
        rounds=rounds,
        book=_book(store, config),
        heads={target: _head(store, spec, digest) for target, (digest, _) in heads.items()},
        assignments={a.device_id: a for a in store.families.assignments()},
        published=store.models.published(),
        epoch=make_epoch(store.epoch.number(now_s=now_s), signer),
        anchor=None if config.rounds.private else store.models.first_fallback(config.rounds.warmup_rounds),
    )
    if open_number is None:
        return Restored(memory, (), frozenset())
    return Restored(memory, tuple(store.rounds.tasks(open_number)), frozenset(store.rounds.update_ids(open_number)))


def round_rules(config: GatewayConfig) -> RoundRules:
    """Return the part of the configuration that the round machine needs."""
    r = config.rounds
    return RoundRules(
        max_rounds=r.max_rounds,
        interval_s=r.interval_s,
        deadline_s=r.deadline_s,
        min_devices=r.min_devices,
        quorum=r.quorum,
        expert_min_updates=config.aggregation.expert_min_updates,
    )


def _make_first_fallback(
    store: Store, config: GatewayConfig, spec: ModelSpec, signer: SignsBytes, *, now_s: float
) -> None:
    theta = initial_theta(spec, config.seed)
    release = make_release(theta, spec, signer, role="fallback", family_id=None, round_number=0, parent=None)
    with store.transaction():
        store.models.add(release, now_s=now_s)
        store.models.set_head(FALLBACK, release.manifest.weights_digest, ServerState.fresh())


def _head(store: Store, spec: ModelSpec, digest: str) -> Head:
    release = store.models.release(digest)
    if release is None:
        raise StoreError(f"the store misses model {digest}; use another store.dir or restore it from a backup")
    if release.manifest.spec_id != spec.spec_id:
        raise ModelSpecError(
            f"the store's models have spec {release.manifest.spec_id[:12]}, this program works with "
            f"{spec.spec_id[:12]}; use another store.dir"
        )
    theta = weights_from_bytes(release.weights, n_parameters=spec.n_parameters)
    return Head(digest, float(np.linalg.norm(theta.astype(np.float64))))


def _book(store: Store, config: GatewayConfig) -> FamilyBook:
    last = store.families.last_grouping()
    believed = store.families.last_believed_grouping()
    searched = None if last is None or "gate" not in last.measures else last.round_number
    return FamilyBook(
        FamilyRules(config.rounds.warmup_rounds, config.families.recluster_every),
        families=store.families.living(),
        decisions=(stored.decision for stored in store.families.last_decisions()),
        scaling=None if believed is None else believed.scaling,
        last_number=store.families.last_number(),
        searched_after=searched,
        separation=None if believed is None else believed.measures.get("separation"),
    )
