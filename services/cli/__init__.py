"""The `recsys` command: one file a verb group, heavy imports inside the verbs."""
