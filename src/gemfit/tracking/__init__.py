"""Experiment trackers whose runs are derived from `metrics.jsonl`: Weights & Biases, MLflow, Trackio.

A tracker gets each step once. It runs in a process of its own, so training imports no tracker, and waits for
none. TensorBoard and the other trackers of transformers are callbacks of the Trainer.
"""
