"""Dataset cards (one TOML each) and the demo generator settings, shipped with the package."""
