"""The trained model outside of training: embedding any image with it, and exporting it for other programs."""
