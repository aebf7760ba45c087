"""An index in PostgreSQL with pgvector, for more items than one machine holds, or for several machines."""
