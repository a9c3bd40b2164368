"""Metrics, masked top-k, full-ranking evaluation, recommendation."""
