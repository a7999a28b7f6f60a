"""The command line: one module a command. Each is loaded when it is asked for."""
