"""What operators see: metrics, logs, one line a receipt."""
