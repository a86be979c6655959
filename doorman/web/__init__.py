"""What the keeper serves over HTTP: metrics and health."""
