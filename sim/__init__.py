"""The world: tracks, car, camera, episode rules and the simulators. Knows nothing of learning."""
