"""The demo: a visitor of a small shop, played event by event through the Lambda handler."""
