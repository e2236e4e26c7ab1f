"""What a fine-tuned model says where it matters: prompts, scores with intervals, findings."""
