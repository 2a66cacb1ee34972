"""Labelled captures: a capture file, its label sidecar, the learn and exam parts, and captures made from real data."""
