"""Devices and workers: choosing a strategy, meeting, exchanging, and starting processes."""
