"""Candidates tried, timed and chosen on the user's own device and problems, and what is remembered of that."""
