"""Rewards: small weighted terms that come back as a total and a breakdown that always add up."""
