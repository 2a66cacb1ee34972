"""Seeded synthetic traffic of small devices, benign and hostile, written as captures with label sidecars."""
