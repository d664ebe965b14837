"""What the service does by itself: it submits studies to Ray and follows them."""
