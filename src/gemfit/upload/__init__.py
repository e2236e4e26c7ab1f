"""Push during training: an upload queue in the run folder, and the process that empties it.

Below `train`: imports schemas and `core`; starts `publish.worker` by its command line.
"""
