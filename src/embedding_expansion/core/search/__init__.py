"""The search for the hardest pairs of points in inner products: in C and in torch where n is finite, else in torch."""
