"""Recipes that come with gemfit; data only."""
