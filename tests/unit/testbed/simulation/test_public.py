"""Loaders of published sets, on rows made here under the publishers' column names."""

import numpy as np
import pytest

from testbed.simulation.errors import DataInputError
from testbed.simulation.public import PUBLIC, load_public
from testbed.simulation.real import Client, RealClients, real_fleet, squeeze
from tests.unit.testbed.simulation import headers, tables


@pytest.mark.parametrize("name", PUBLIC)
def test_a_missing_set_says_what_belongs_where(tmp_path, name):
    with pytest.raises(DataInputError) as caught:
        load_public(name, tmp_path)
    assert str(tmp_path / "public" / name) in str(caught.value)
    assert PUBLIC[name].publisher in str(caught.value)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_set_becomes_clients(tmp_path, name):
    """Two clients, benign and an attack; identifying columns are no features."""
    tables.write(name, tmp_path / "public" / name)
    found = load_public(name, tmp_path)
    assert len(found.clients) == 2
    assert {tuple(np.unique(client.y)) for client in found.clients} == {(0, 1)}
    assert {client.x.shape for client in found.clients} == {(80, tables.FEATURES)}
    assert all((client.x >= 0.0).all() and (client.x <= 3.0).all() for client in found.clients)
    assert found.layout.inputs == tables.FEATURES


@pytest.mark.parametrize("name", PUBLIC)
def test_the_publishers_header_is_understood(tmp_path, name):
    """Benign and attack rows of two clients under the real column names; what identifies them is no feature."""
    folder, (file_name, _) = tmp_path / "public" / name, headers.HEADERS[name]
    for client in ("a", "b"):
        rows = [
            (label, headers.row(name, client, label, number))
            for label in headers.LABELS[name]
            for number in range(1, 41)
        ]
        tables.write_rows(name, folder, client, file_name, rows)
    found = load_public(name, tmp_path)
    assert len(found.clients) == 2
    assert found.layout.inputs == len(headers.features(name))
    for client in found.clients:
        assert np.bincount(client.y).tolist() == [40, 40]
        assert client.x.shape == (80, len(headers.features(name)))
        np.testing.assert_array_equal(client.x[:40], client.x[40:])  # nothing but the label tells them apart


def test_every_set_of_the_benchmark_has_a_header():
    assert set(headers.HEADERS) == set(headers.LABELS) == set(PUBLIC)


def test_a_table_without_its_label_is_named(tmp_path):
    folder = tmp_path / "public" / "ton-iot"
    folder.mkdir(parents=True)
    (folder / "Network_dataset_1.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataInputError, match=r"Network_dataset_1\.csv: no column type"):
        load_public("ton-iot", tmp_path)


def test_an_unknown_set_is_named(tmp_path):
    with pytest.raises(DataInputError, match="no data set 'x'; there are nbaiot"):
        load_public("x", tmp_path)


def test_values_are_squeezed_without_any_statistic():
    """One row alone gives the same as among others; odd values become 0 or the top."""
    values = np.array([[0.0, 1e9, -5.0], [np.nan, np.inf, 3.0]])
    both = squeeze(values, 1e6)
    np.testing.assert_array_equal(squeeze(values[:1], 1e6), both[:1])
    assert both[1].tolist()[:2] == [0.0, 0.0]
    assert both[0, 1] == pytest.approx(3.0)


def clients(*rows):
    rng = np.random.default_rng(0)
    made = [
        Client(f"c{i}", rng.random((sum(n), 4)).astype(np.float32), np.repeat(np.arange(len(n)), n).astype(np.int32))
        for i, n in enumerate(rows)
    ]
    return RealClients("made up", PUBLIC_LAYOUT, tuple(made))


PUBLIC_LAYOUT = tables.layout(4, 3)


def test_shares_have_equal_proportions_and_no_row_twice():
    real = clients((600, 240, 60), (120, 120))
    fleet = real_fleet(real, 3)
    for i, client in enumerate(real.clients):
        parts = [s.x[i][s.y[i] >= 0] for s in (fleet.train, fleet.validation, fleet.test)]
        assert sum(map(len, parts)) == len(np.unique(np.concatenate(parts), axis=0)) == len(client.y)
        shares = [
            np.bincount(s.y[i][s.y[i] >= 0], minlength=3) / len(p)
            for s, p in zip((fleet.train, fleet.validation, fleet.test), parts, strict=True)
        ]
        np.testing.assert_allclose(shares[0], shares[1], atol=0.05)
        np.testing.assert_allclose(shares[0], shares[2], atol=0.05)


def test_neighbours_stay_together():
    """Blocks, not rows, are dealt out: most rows of a share have their neighbour in it."""
    real = clients((600, 600))
    fleet = real_fleet(real, 3)
    order = {tuple(row): k for k, row in enumerate(real.clients[0].x.tolist())}
    rows = np.array([order[tuple(row)] for row in fleet.train.x[0][fleet.train.y[0] >= 0].tolist()])
    assert (np.diff(np.sort(rows)) == 1).mean() > 0.9


def test_a_class_that_cannot_be_in_every_share_is_left_out():
    fleet = real_fleet(clients((600, 5), (600, 100)), 3)
    assert set(np.unique(fleet.train.y[0])) <= {-1, 0}
