"""What came out: scores of a model against the truth, pictures, and one page that shows all."""
