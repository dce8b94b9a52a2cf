"""Everything that touches Intel Coach and TensorFlow: presets, the PPO head, the agent, checkpoints."""
