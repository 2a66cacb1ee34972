"""Jobs of the training process as messages, there and back."""

import json

import cbor2
import numpy as np
import pytest

from contract.initial import initial_theta
from contract.layout import Layout
from device_agent.training.checkpoint import Checkpoint
from device_agent.training.jobs import TrainJob, job_from_message, job_to_message
from device_agent.training.trainer import TrainData, TrainSettings

LAYOUT = Layout(4, 3, (5, 6), 8, "classifier")


def job(**changes):
    theta = initial_theta(LAYOUT, 1)
    data = TrainData(np.arange(8, dtype=np.float32).reshape(2, 4), np.array([0, -1], dtype=np.int32))
    settings = TrainSettings(epochs=3, mask_absent=True)
    return TrainJob(
        **{"job_id": "j", "layout": LAYOUT, "artifact": b"tfl", "theta": theta, "data": data}
        | {"settings": settings, "time_budget_s": 9.5}
        | changes
    )


@pytest.mark.parametrize("artifact", [None, b"tfl"])
def test_a_job_comes_back_as_it_left(artifact):
    theta = initial_theta(LAYOUT, 2)
    saved = Checkpoint(2, theta, theta * 2, theta * 3, 7, 1, (0.5, 0.25))
    sent = job(artifact=artifact, resume=saved)
    back = job_from_message(cbor2.loads(cbor2.dumps(job_to_message(sent))))
    assert (back.layout, back.settings, back.artifact) == (LAYOUT, sent.settings, artifact)
    assert (back.job_id, back.time_budget_s, back.checkpoint_s) == ("j", 9.5, sent.checkpoint_s)
    np.testing.assert_array_equal(back.theta, sent.theta)
    np.testing.assert_array_equal(back.data.x, sent.data.x)
    np.testing.assert_array_equal(back.data.y, sent.data.y)
    assert back.resume is not None
    assert (back.resume.epochs, back.resume.steps, back.resume.losses) == (2, 7, (0.5, 0.25))
    np.testing.assert_array_equal(back.resume.v, saved.v)


def test_the_layout_goes_over_in_plain_values():
    """What can be worked out from the layout is not sent: the other side would refuse it."""
    sent = job_to_message(job())["layout"]
    assert Layout(**{**sent, "hidden": tuple(sent["hidden"])}) == LAYOUT
    assert json.loads(json.dumps(sent)) == {**sent, "hidden": list(sent["hidden"])}
