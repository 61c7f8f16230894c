"""Scorers: candidates in, scores out."""
