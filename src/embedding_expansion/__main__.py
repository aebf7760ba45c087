"""`python -m embedding_expansion` is the command `embex`; torchrun starts it so."""

from embedding_expansion.app.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
