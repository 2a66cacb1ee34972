"""Model artifacts that ship with the agent, each beside its manifest."""
