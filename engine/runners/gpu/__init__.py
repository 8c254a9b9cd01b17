"""The GPU engine: a frame as one CUDA graph with its state on the device, behind the `Runner` protocol and in a loop that never waits."""
