"""The gateway's certificate authority: who may speak to the broker, and under which name."""
