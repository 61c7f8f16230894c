"""Losses, each a pure function of scores or vectors."""
