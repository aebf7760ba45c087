"""Losses and miners of other libraries, taken as ours."""
