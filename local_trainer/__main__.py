"""``python -m local_trainer``: the command line."""

from local_trainer.cli.main import main

if __name__ == "__main__":
    main()
