"""What content decides: copies, near copies, personal data, mixtures, sides of the split."""
