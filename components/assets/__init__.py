"""What a run needs before it starts: pictures, networks, GPUs, disk. Nothing is fetched here."""
