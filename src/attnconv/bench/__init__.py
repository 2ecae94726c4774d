"""What ops, layers and networks cost."""
