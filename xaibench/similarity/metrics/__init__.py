"""Similarity metrics of heatmaps and their chance levels."""
