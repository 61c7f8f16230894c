"""Features: one definition, encoded by polars for training and by NumPy for serving."""
