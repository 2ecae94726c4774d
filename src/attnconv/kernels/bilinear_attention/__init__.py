"""Kernels of ops.bilinear_attention."""
