"""What all packages agree on; it imports none of them."""
