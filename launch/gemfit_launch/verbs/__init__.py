"""One small function per verb of ``gemfit``; a module is imported when one of its verbs is used.

May import every other folder of the launcher.
"""
