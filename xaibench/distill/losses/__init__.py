"""One small file a loss: a pure function per sample and, where something is learned, its module."""
