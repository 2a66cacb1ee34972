"""What survives a restart: waiting messages, sample rows, models and small state. SQLite, one file per kind."""
