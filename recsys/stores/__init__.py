"""The feature store: raw profiles, histories, seen items and the event stream, in Redis or in memory."""
