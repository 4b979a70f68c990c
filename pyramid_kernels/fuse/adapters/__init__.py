"""Adapters of foreign classes, one file per library or family of repositories."""
