"""The Open Inference Protocol v2: its names, descriptions and tensors, to and from ours. `v2` is generated."""
