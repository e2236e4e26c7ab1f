"""One small function for each verb of ``gemfit``; a module is imported when one of its verbs is used."""
