"""Trained networks and classical methods on the same held-out images, in one table."""
