"""The formulas of the methods as slow loops, written from the papers and programs and not from the package."""
