"""Studies in a folder, which go on after interruptions: a search for settings, and an ablation over several seeds."""
