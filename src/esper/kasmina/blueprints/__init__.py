"""Blueprints: recipes for seeds, their registry, and the contract that each must keep."""
