"""The CPU engine: a frame on the AMX kernels, behind the `Runner` protocol."""
