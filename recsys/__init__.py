"""recsys: a recommender's retrieval and ranking library, from raw logs to live answers."""

__version__ = "0.1.0"
