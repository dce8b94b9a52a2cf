"""Runs beside each other: what differs, how they learned, which checkpoint to send to the car."""
