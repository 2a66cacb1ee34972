"""What runs beside the broker: registry, rounds, families, releases."""
