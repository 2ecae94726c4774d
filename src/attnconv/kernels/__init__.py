"""The kernels that compute the ops. Private: call `attnconv.ops`."""

KERNELS = ("eager", "blocked", "native", "sdpa", "triton")  # of relative attention
IMPLS = ("auto", *KERNELS)
