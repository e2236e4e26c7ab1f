"""The launcher: a recipe becomes a plan, and the plan is carried out. Never imports torch."""
