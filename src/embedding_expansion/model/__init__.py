"""Models: backbone, network and weights on disk. Imports neither losses nor data sets."""
