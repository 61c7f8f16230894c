"""Torch modules: layers, losses and models, nothing about data or files."""
