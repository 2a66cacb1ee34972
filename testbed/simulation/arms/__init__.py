"""The methods that are compared, each a function from a bench and its settings to an outcome."""
