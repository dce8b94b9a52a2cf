"""Trains DeepRacer-style cars: settings, runs, rewards, rollouts, records and the commands."""
