"""Channels: users in, candidates out."""
