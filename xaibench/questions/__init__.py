"""Further questions that can be asked of a run."""
