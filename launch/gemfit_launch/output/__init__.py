"""What commands print: tables, plans, progress, JSON schemas.

May import `predict` and `planning`; starts and changes nothing.
"""
