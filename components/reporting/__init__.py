"""Results: scores of a model against the true faces, pictures, and one page that shows them."""
