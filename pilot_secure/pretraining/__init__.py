"""Making the shipped base checkpoint: drawn images, tower, then connector and language model."""
