"""Plots appear for what ran, and none for what did not."""

from testbed.simulation.plots import plot_alpha, plot_arms, plot_gaps

F1 = {"f1": {"mean": 0.8, "half_width": 0.1}}


def test_the_grid_is_drawn_if_there_is_one(tmp_path):
    path = tmp_path / "alpha.png"
    plot_alpha({"iid": {"arms": {"ours": F1}}}, path)
    assert not path.exists()
    plot_alpha({f"concept+feature a={a}": {"arms": {"ours": F1, "local": F1}} for a in (0.1, 1)}, path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_all_methods_are_drawn_where_all_ran(tmp_path):
    path = tmp_path / "arms.png"
    plot_arms({"drift": {"arms": {"ours": F1}}}, path)
    assert not path.exists()
    plot_arms({"iid": {"arms": {f"arm-{i}": F1 for i in range(14)}}}, path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_gaps_are_drawn_where_ours_ran_beside_a_rival(tmp_path):
    path = tmp_path / "gaps.png"
    plot_gaps({"iid": {"arms": {"ours": F1}}}, path)
    assert not path.exists()
    rival = {**F1, "against_ours": {"difference": 0.1, "half_width": 0.02, "wilcoxon_p": 0.03}}
    plot_gaps({"iid": {"arms": {"ours": F1, "fedavg": rival}}}, path)
    assert path.read_bytes().startswith(b"\x89PNG")
