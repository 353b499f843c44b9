"""Architectures, checkpoints, layer outputs and the teacher/student pair."""
