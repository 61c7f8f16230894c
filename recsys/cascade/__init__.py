"""The cascade: channels, merge, pre-rank and rank as one readable run."""
