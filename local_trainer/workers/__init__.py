"""Processes of a run, started by command line: ``python -m local_trainer.workers.<name>``."""
