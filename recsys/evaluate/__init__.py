"""Offline evaluation: measures, protocols, yardsticks, the funnel and the report."""
