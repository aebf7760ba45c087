"""Runs on disk: options, run folder and lock."""
