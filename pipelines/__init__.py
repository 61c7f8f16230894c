"""Training pipelines: named steps, the graph that Ray carries out, presets."""
