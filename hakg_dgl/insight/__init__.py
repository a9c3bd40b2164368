"""Explanations of scores, and export of embeddings for other programs."""
