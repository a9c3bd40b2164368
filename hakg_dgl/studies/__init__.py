"""Studies in a folder: a search for settings, and an ablation over several seeds."""
