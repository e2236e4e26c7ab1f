"""The training loop: HF Trainer subclass, its arguments, callbacks, validation, early stopping.

May import every other folder of `gemfit.train` except `checks` and `telemetry`, which `main` wires in.
"""
