"""The kernels that compute the ops. Private: call `attnconv.ops`."""
