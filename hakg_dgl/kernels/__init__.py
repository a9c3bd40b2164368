"""Sparse products and the fused relation-transitive aggregation, by whichever backend works here."""
