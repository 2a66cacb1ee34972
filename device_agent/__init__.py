"""What runs on a device: capture, flows, detection, local training."""
