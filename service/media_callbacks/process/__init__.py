"""The process around the service: its sockets, signals, workers and servers, and its memory."""
