"""MLflow: runs, registered models, and servers that are away for a while."""
