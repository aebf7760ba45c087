"""An index in PostgreSQL with pgvector, for what one machine cannot hold or must not be alone with."""
