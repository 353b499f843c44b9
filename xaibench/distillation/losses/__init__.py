"""One small file a loss: a pure function that gives one value a sample and, where something is learned, its module."""
