"""Sweeps: many trainings that differ in settings, and which of them is best."""
