"""The mathematics: pairs, expansion, losses. Imports torch and jaxtyping only."""
