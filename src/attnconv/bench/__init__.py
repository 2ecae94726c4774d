"""The cost of ops, layers and networks."""
