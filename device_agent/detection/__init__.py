"""Scores, thresholds calibrated to a false-alarm budget, suppression of repeats, alerts."""
