"""What a person wants to know of a pack: one row as text, its figures, and whether it is sound."""
