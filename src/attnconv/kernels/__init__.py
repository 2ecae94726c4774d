"""How the ops are computed. Private: call `attnconv.ops`."""
