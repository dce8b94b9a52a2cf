"""The command line: what a user types, one module a command.

Nothing heavy is imported at the top of these modules: ``local-trainer --help`` answers in
under a second.
"""
