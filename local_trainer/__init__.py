"""Local trainer for DeepRacer-style cars: config, runs, rewards, rollouts, plots and the command line."""
