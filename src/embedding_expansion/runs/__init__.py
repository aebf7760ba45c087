"""What a run is on disk: its options, its folder, its lock."""
