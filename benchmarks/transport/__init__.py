"""Load on the wire: a full round with many real MQTT clients, and what an update costs in bytes."""
