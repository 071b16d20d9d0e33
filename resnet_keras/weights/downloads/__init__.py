"""What `fetch` is made of: the cache, the addresses, and the way over the network."""
