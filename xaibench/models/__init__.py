"""Architectures, checkpoints, layer taps and the teacher/student pair."""
