"""Distillation: methods, losses, training."""
