"""How the embedded landscape model was made: scenes, captions, probes, vocabulary, training."""
