"""esper-lite: a neural network that grows while it trains."""
