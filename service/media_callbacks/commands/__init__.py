"""The command line: a module or a folder for each command, loaded when asked for; ``console`` is what they share."""
