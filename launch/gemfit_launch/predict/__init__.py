"""What training will need and how long it will take, said before anything runs: memory, time, what fits."""
