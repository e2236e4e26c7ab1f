"""What a trained model is worth: held-out figures with intervals, and what it says."""
