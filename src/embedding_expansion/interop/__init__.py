"""Adapters for losses, miners and trainers of other libraries. Importing them imports no other library."""
