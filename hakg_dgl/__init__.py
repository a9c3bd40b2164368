"""Knowledge-aware recommendation in hyperbolic space on DGL heterographs."""
