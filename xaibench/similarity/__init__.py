"""How alike the decisions of two models are."""
