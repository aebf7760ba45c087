"""A trained model: its backbone, its network, its weights on disk. Knows neither losses nor data sets."""
