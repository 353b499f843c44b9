"""Where explanations are remembered."""
