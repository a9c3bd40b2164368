"""Pictures of what a run has learned, and one page with all of it."""
