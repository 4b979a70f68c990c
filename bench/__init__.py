"""Benchmarks: what the ops and modules cost beside PyTorch eager and torch.compile."""
