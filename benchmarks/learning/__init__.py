"""Learning on the device: equality, footprint, speed and quality, beside the peers that are installed."""
