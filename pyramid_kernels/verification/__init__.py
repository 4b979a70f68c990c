"""Whether kernels are right: errors and their limits, the oracle, what it watches, and what has passed where."""
