"""A compiled meter of another version is not used."""

import numpy as np
import pytest

from contract.features import NAMES
from device_agent.flows.fast import library
from device_agent.flows.records import IDENTITY
from tests.unit.device_agent.engines import compiled

pytestmark = compiled

find = library.load.__wrapped__
"""The search without its memory."""


def test_it_is_found():
    assert find() is not None


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("NAMES", NAMES[:-1]),
        ("NAMES", (*NAMES[1:], NAMES[0])),
        ("NAMES", (*NAMES, "more")),
        ("IDENTITY", np.dtype([*IDENTITY.descr, ("more", "u1")])),
        ("_SIGNATURES", {**library._SIGNATURES, "kw_of_tomorrow": (None, [])}),
    ],
)
def test_one_with_other_columns_or_functions_is_not(monkeypatch, name, other):
    monkeypatch.setattr(library, name, other)
    assert find() is None
