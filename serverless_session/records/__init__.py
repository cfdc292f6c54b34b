"""What features keep: sealed bytes under derived keys."""
