"""Questions to a finished run (`flipping`, `pooling`, `inside`), and the study of spurious cues that trains its own.

`question` holds what they share: which students are meant, how files are named, and when an answer still stands.
"""
