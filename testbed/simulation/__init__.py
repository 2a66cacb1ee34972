"""Many simulated devices in one batched computation: data, training, federated methods, and their comparison."""
