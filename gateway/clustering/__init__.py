"""The search for families: HDBSCAN on signatures, its gate, and identity over time. Owns scikit-learn."""
