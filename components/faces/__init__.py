"""From a folder of photographs to aligned faces, and portraits drawn for a first run."""
