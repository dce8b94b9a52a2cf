"""Finished models taken out of runs, and the checks that they will be taken in elsewhere."""
