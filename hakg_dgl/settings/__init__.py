"""Settings that every run has, how their values are checked, and TOML; a model's own settings live with the model."""
