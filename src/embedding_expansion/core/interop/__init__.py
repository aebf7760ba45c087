"""Adapters to other libraries' losses and trainers; none of them is imported here."""
