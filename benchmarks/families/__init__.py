"""Families, experts and the fallback against other federated methods."""
