"""gemfit: distributed fine-tuning of Gemma 3 from one recipe.

Importing this package is cheap. The contracts (recipe, plan, run folder, …) need only pydantic and
ruamel.yaml; ``gemfit.data`` and ``gemfit.train`` need the ``train`` extra.
"""

__version__ = "0.1.0"
