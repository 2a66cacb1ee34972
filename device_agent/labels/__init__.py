"""Where labels come from: operator verdicts, marks of an experiment, the baseline window."""
