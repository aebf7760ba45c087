"""See `checks`."""

from embedding_expansion.checks import validates as validates
