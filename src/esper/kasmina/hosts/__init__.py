"""Hosts: networks that declare where they can grow."""
