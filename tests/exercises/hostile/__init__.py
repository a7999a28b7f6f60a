"""What strangers may send to a running service, beside callbacks that must all be taken."""
