"""Rows to learn from and to judge by: time-block splits and a bounded, class-balanced buffer."""
