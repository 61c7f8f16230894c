"""What `recsys doctor` looks at: each module returns findings and raises nothing."""
