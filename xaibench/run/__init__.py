"""One run: a configuration, a folder, and the steps that fill it."""
