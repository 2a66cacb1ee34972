"""Error feedback: what the form leaves out comes with the next update, per target, and never in private mode."""

import numpy as np

from contract.quantise import decode_delta
from device_agent.encoding import ErrorFeedback
from tests.unit.gateway.builders import task as make_task

N = 700


def deltas(count):
    rng = np.random.default_rng(5)
    # One large value a block, so that the small ones are rounded away.
    return [
        np.where(np.arange(N) % 256 == 0, 1.0, rng.normal(0.0003, 0.001, N)).astype(np.float32) for _ in range(count)
    ]


def sent(forms, task, values):
    data = [forms.encode(task, task.targets[0], delta) for delta in values]
    return np.sum([decode_delta(d, task.delta_encoding, n_parameters=N) for d in data], axis=0)


def q8_task(**changes):
    return make_task("a", 1).model_copy(update={"delta_encoding": "q8", **changes})


def test_rounding_does_not_add_up():
    values = deltas(40)
    truth = np.sum(values, axis=0)
    with_feedback = np.abs(sent(ErrorFeedback(), q8_task(), values) - truth).max()
    without = np.abs(np.sum([sent(ErrorFeedback(), q8_task(), [v]) for v in values], axis=0) - truth).max()
    assert with_feedback < 0.006 < without


def test_targets_do_not_mix_and_private_updates_carry_nothing():
    forms, values = ErrorFeedback(), deltas(2)
    task = q8_task()
    forms.encode(task, task.targets[0], values[0])
    other = task.targets[0].model_copy(update={"role": "expert", "family_id": "family-1"})
    fresh = ErrorFeedback().encode(task, other, values[1])
    assert forms.encode(task, other, values[1]) == fresh
    private = q8_task(clip_norm=1.0, noise_multiplier=1.0)
    assert forms.encode(private, task.targets[0], values[1]) == fresh


def test_float32_is_sent_as_it_is():
    task, (delta,) = make_task("a", 1), deltas(1)
    assert ErrorFeedback().encode(task, task.targets[0], delta) == delta.astype("<f4").tobytes()
