"""Public formats, datasets on disk, the catalogue, and splits of events into what is learnt and what is predicted."""
