"""Toy worlds with known optima: what a learner reaches on them can be compared with what is reachable."""
