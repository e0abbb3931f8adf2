"""Where records go: one file per destination, each an `OutputBackend`."""
