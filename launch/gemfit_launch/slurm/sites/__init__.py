"""Site files: find, load and check them.

Imports only the core package.
"""
