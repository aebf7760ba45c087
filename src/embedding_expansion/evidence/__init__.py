"""The grid of experiments that shows where expansion helps; see docs/evidence.md."""
