"""What two or more ops share: argument checks, layouts, launches, case descriptions."""
