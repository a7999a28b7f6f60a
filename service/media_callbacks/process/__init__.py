"""The process: its sockets, signals, workers and servers, and its memory. Nothing about callbacks."""
