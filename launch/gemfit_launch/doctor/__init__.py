"""What this machine can do, found without importing what trains."""
