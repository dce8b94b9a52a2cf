"""Reward functions to start from; each file runs unchanged on the real service."""
