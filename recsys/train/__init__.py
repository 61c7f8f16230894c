"""The training machinery that all models share."""
