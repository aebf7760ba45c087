"""Losses and miners of other libraries, taken as ours, and ours in their trainers; none of them is imported here."""
