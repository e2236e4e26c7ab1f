"""Job script and site files that come with gemfit; data only."""
