"""The build itself: workers, parts on disk, the plan of all rows, shards and accounts."""
