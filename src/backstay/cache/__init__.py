"""The cache of a service, and the counters of its rate limits."""
