"""Explanations of what a model decides."""
