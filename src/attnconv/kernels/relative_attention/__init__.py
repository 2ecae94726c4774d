"""Kernels of ops.relative_attention."""
