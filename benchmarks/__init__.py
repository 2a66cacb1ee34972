"""Measurements against other programs; not part of the product."""
