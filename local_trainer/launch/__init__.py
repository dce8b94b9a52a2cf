"""How a run's workers are started."""
