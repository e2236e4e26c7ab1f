"""What of a run is published: the model card, and weights on the Hugging Face Hub."""
