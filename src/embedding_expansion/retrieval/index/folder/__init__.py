"""An index in a folder: SQLite holds the truth, faiss structures beside it are derived from it."""
