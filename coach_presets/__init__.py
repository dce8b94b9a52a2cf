"""Everything that touches Coach and TensorFlow: presets, PPO head, agent, checkpoints."""
