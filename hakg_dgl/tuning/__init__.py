"""Search for settings on the validation split: the space, the study on disk, its workers and its report."""
