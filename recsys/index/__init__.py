"""The vectors of a catalogue and the search for the best of them: exact, inverted file, codes, graph, GPU."""
