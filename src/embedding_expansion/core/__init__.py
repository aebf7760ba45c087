"""The mathematics: pairs, expansion and losses. Of other libraries it imports only torch and jaxtyping."""
