"""What `evaluate`, `compare` and `report` judge: run folders, and models that come from elsewhere."""
