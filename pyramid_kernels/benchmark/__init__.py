"""What the commands measure with: subjects, providers side by side, timing, rows."""
