"""Networks that tell restored latents from real ones: the generators' opponents in training."""
