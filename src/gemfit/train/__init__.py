"""What runs on the nodes: the process that ``accelerate launch`` starts once a rank."""
