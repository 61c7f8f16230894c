"""The marketplace simulator: a log of impressions, clicks and late conversions, and the truth behind it."""
