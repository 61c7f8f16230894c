"""What is served: one directory with everything in it, checksummed, versioned, replaced as a whole."""
