"""The search for the hardest pairs in inner products: in torch, and the same natively."""
