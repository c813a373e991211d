"""jetsync: keeps local directories and NATS Object Store buckets equal, by digest."""
