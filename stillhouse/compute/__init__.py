"""How this machine computes: kernels, packed weights, threads, memory."""
