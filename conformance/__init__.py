"""Golden files of public code, and what agreeing with them means."""
