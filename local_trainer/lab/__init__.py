"""The reward lab: check, replay, rank, map and attack reward functions without training."""
