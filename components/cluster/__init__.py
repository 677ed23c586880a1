"""A Ray cluster: joining or starting one, its nodes, and how many workers they can hold."""

from components.cluster.sessions import local, on_cluster, session
from components.cluster.workers import Workplace, limit_threads, map_on_workers

__all__ = ["Workplace", "limit_threads", "local", "map_on_workers", "on_cluster", "session"]
