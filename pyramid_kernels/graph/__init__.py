"""Pyramids recognised in graphs, whatever the classes are called that they come from."""
