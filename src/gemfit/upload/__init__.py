"""Push during training: an upload queue in the run folder, and a low-priority process that empties it.

Below `train`: imports schemas and `core`; starts `publish.worker` by its command line.
"""
