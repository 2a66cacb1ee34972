"""Engines: gradients, scores and evaluation of a flat weight vector, on LiteRT or NumPy."""
