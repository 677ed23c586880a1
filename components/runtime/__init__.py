"""Where the work runs and what is kept of it: Ray, Parquet tables, lineage, logs."""
