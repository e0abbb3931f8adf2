"""Gymnasium: any `RolloutEnv` as a standard environment, alone or as a vector, and the way back.

The only folder of the room that imports gymnasium; files are imported by path, never through a front door.
"""
