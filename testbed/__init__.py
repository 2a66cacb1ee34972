"""The testbed: labelled traffic, replay, demo runs and their reports."""
