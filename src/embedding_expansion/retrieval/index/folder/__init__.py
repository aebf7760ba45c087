"""An index in a folder: a SQLite database, and faiss structures that are derived from it."""
