"""What strategies share that run nested servers: dialects, the HTTP client, readiness, session keys."""
